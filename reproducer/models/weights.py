"""The weight files of a model folder: what their headers say, and each way in which they are none. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from reproducer.errors import UserError

SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"
ADAPTER = "adapter_config.json"  # peft's name
POINTER = b"version https://git-lfs"  # what git leaves in place of a large file that was not fetched
MERGE = (
    "merge it first: peft.AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW), "
    "copy the tokenizer files beside the weights, and name NEW"
)


class Stored(NamedTuple):
    """A tensor of a weight file, as its header has it; dtypes are safetensors' own: F32, BF16, I8."""

    file: str
    dtype: str
    shape: tuple[int, ...]


def refuse_pointer(path: Path) -> None:
    """UserError if a file is what git leaves in place of one that git-lfs was to fetch."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(
                f"{path} is a git-lfs pointer of {path.stat().st_size} bytes, not the file itself",
                "fetch it: `git lfs pull` in that repository, or download it again",
            )


def refuse_adapter(folder: Path) -> None:
    """UserError for a folder that holds an adapter and no model."""
    if (folder / ADAPTER).is_file():
        raise UserError(f"{folder} holds an adapter ({ADAPTER}), not a model of its own", MERGE)


def weight_files(folder: Path) -> list[Path]:
    """The folder's files of weights in safetensors, all of which are there.

    Raises:
        UserError: some are missing, or there are none, or two sets of them; says what is there and what to do.
    """
    single, index = folder / SINGLE, folder / INDEX
    if not index.is_file():
        if single.is_file():
            return [single]
        refuse_adapter(folder)
        refuse_pickles(str(folder), [path.name for path in folder.iterdir()])
        message = f"{folder}: no weights: there is neither {SINGLE} nor {INDEX}"
        raise UserError(message, "name a folder as save_pretrained writes it")
    refuse_pointer(index)
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is no index of weight files: {error}") from None
    if single.is_file() and shards != [SINGLE]:
        message = f"{folder} has two sets of weights: {SINGLE}, and the files that {INDEX} names"
        raise UserError(message, "remove those that are not meant")
    if absent := [shard for shard in shards if not (folder / shard).is_file()]:
        raise UserError(f"{folder}: {len(absent)} of {len(shards)} weight files missing: {some(absent)}")
    return [folder / shard for shard in shards]


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of the folder's weight files, by name, from the files' headers.

    Raises:
        UserError: as `weight_files`, and for a file that is no safetensors file, or not a whole one.
    """
    return {name: tensor for path in weight_files(folder) for name, tensor in _header(path).items()}


def _header(path: Path) -> dict[str, Stored]:
    refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= size - 8 else b""
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        stored = {name: Stored(path.name, of["dtype"], tuple(of["shape"])) for name, of in entries.items()}
        end = 8 + length + max((of["data_offsets"][1] for of in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UserError(f"{path}: the weights cannot be loaded: it is no safetensors file, or cut off") from None
    if end != size:
        message = f"{path}: the weights cannot be loaded: the file has {size:,} bytes, its header tells of {end:,}"
        raise UserError(message, "fetch or copy it again")
    return stored


def refuse_pickles(where: str, names: list[str], hint: str = "") -> None:
    """Raise a UserError if `names` holds pickled weights: they can run any code, and are not read."""
    pickles = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".bin.index.json")))
    if pickles:
        raise UserError(
            f"{where}: the weights are only there in pickled form, which can run any code when it is read: "
            f"{some(pickles)}",
            hint + "Convert them where you trust them: AutoModelForCausalLM.from_pretrained(…).save_pretrained(FOLDER) "
            "writes safetensors; copy the tokenizer files beside them and name FOLDER in the spec.",
        )


def refuse_other_shapes(folder: Path, tensors: Mapping[str, Stored], expected: Mapping[str, tuple[int, ...]]) -> None:
    """UserError if a tensor has another shape than the model that config.json describes."""
    wrong = sorted(name for name in expected.keys() & tensors if tensors[name].shape != expected[name])
    if wrong:
        first = tensors[wrong[0]]
        raise UserError(
            f"{folder}: {len(wrong)} of {len(tensors)} tensors have another shape than config.json says: {wrong[0]} is "
            f"{first.shape} in {first.file}, {expected[wrong[0]]} by config.json",
            "config.json and weights are of different models; bring the config.json that was saved with these weights",
        )


def some(names: list[str]) -> str:
    """The first few names of a list."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
