"""Loading a model folder: what `fetch` made, or any folder as `save_pretrained` writes it."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproducer.errors import UserError, nearest
from reproducer.models.quantised import refuse_quantised_folder
from reproducer.models.quiet import quiet
from reproducer.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LOCATION = "location.json"  # where the model lies, in the directory of one that was not copied
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


def load_model(
    directory: str | Path, dtype: str = "auto", device: str | torch.device = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in evaluation mode on `device`, and its tokenizer (which has a padding token).

    Prints nothing, runs no code of the model's repository and leaves the random generators as they were.

    Args:
        directory: what `fetch` filled, or a model folder.
        dtype: of the weights and the computation; `auto`: what config.json says.

    Raises:
        UserError: files are missing or broken, or they are not a causal language model that transformers knows.
    """
    import torch

    from reproducer.models.random_weights import SEED, draw_model

    if dtype not in DTYPES:
        raise UserError(f"unknown dtype '{dtype}'", nearest(dtype, DTYPES))
    folder = locate(Path(directory))
    config = read_config(folder)
    wanted: Any = (config.dtype or torch.float32) if dtype == "auto" else dtype
    wanted = getattr(torch, wanted) if isinstance(wanted, str) else wanted
    seed = folder / SEED
    model: Any
    if seed.is_file():
        with quiet():
            model = draw_model(config, json.loads(seed.read_text(encoding="utf-8"))["seed"], wanted, device)
    else:
        model = _read_model(folder, config, wanted)
    tokenizer = load_tokenizer(folder)
    _agree(model, tokenizer)
    return model.to(device).eval(), tokenizer


def _read_model(folder: Path, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """The model with the weights of the folder's files, all of which must be there and fit."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    check_weights(folder)
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    try:
        with quiet():
            model, found = from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: the weights cannot be loaded: {_reason(error)}") from error
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"{folder}: {_count(missing)} of the model not in its weight files: {_some(missing)}")
    if mismatched := sorted(str(key[0]) for key in found["mismatched_keys"]):
        raise UserError(f"{folder}: {_count(mismatched)} of another shape than config.json says: {_some(mismatched)}")
    if unexpected := sorted(found["unexpected_keys"]):
        message = f"{folder}: {_count(unexpected)} in its weight files not part of the model: {_some(unexpected)}"
        warnings.warn(message, stacklevel=3)
    return model


def meta_model(config: PreTrainedConfig | Mapping[str, Any]) -> PreTrainedModel:
    """The model of a configuration, or of what its config.json holds, without weights: on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet(), torch.device("meta"):
        full = AutoConfig.for_model(**config) if isinstance(config, Mapping) else config
        return AutoModelForCausalLM.from_config(full, trust_remote_code=False)


def count_parameters(directory: str | Path) -> int:
    """How many parameters the model has, tied ones counted once, from its config alone: nothing is loaded."""
    from reproducer.models.architecture import parameter_count

    return parameter_count(meta_model(read_config(locate(Path(directory)))))


def locate(directory: Path) -> Path:
    """The folder with the model's files: `directory` itself, or the one its location.json names."""
    pointer = directory / LOCATION
    if not pointer.is_file():
        return directory
    folder = Path(json.loads(pointer.read_text(encoding="utf-8"))["path"])
    if not folder.is_dir():
        raise UserError(
            f"the model's folder {folder} is gone", f"bring it back, or delete {directory} and run again to fetch it"
        )
    return folder


def read_config(folder: Path) -> PreTrainedConfig:
    """The folder's config.json, of a causal language model that transformers knows.

    Raises:
        UserError: there is none, it is not JSON, holds NaN or an infinity, is of an unknown kind, or its weights are
            quantised.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from reproducer.models.architecture import PRUNED

    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is no model folder: it has no config.json")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no model's config: it holds a {type(raw).__name__}, not an object")
    for key, value in _numbers(raw):
        if not math.isfinite(value):
            raise UserError(f"{path}: {key} is {value}, not a number a model can have")
    refuse_quantised_folder(path)
    kind = raw.get("model_type")
    if str(kind).removeprefix(PRUNED) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        from reproducer.models.architecture import SUPPORTED

        raise UserError(
            f"{path}: model_type is {kind!r}, which transformers does not know as a causal language model",
            f"models that bring their own code are not run; types that can be pruned: {SUPPORTED}",
        )
    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # config classes validate in their own ways
        raise UserError(f"{path}: transformers cannot read it: {_reason(error)}") from error


def check_weights(folder: Path) -> None:
    """Refuse a folder without its complete weights in safetensors, naming what is there and what to do."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is no index of weight files: {_reason(error)}") from None
        if absent := [shard for shard in shards if not (folder / shard).is_file()]:
            raise UserError(f"{folder}: {len(absent)} of {len(shards)} weight files missing: {_some(absent)}")
        return
    refuse_pickles(str(folder), [path.name for path in folder.iterdir()])
    raise UserError(
        f"{folder}: no weights: there is neither model.safetensors nor {index.name}",
        "name a folder as save_pretrained writes it",
    )


def refuse_pickles(where: str, names: list[str], hint: str = "") -> None:
    """Raise a UserError if `names` holds pickled weights: they can run any code, and are not read."""
    pickles = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".bin.index.json")))
    if pickles:
        raise UserError(
            f"{where}: the weights are only there in pickled form, which can run any code when it is read: "
            f"{_some(pickles)}",
            hint + "Convert them where you trust them: AutoModelForCausalLM.from_pretrained(…).save_pretrained(FOLDER) "
            "writes safetensors; copy the tokenizer files beside them and name FOLDER in the spec.",
        )


def _agree(model: Any, tokenizer: Any) -> None:
    """Let generation stop where the tokenizer says: the first LLaMA conversions carry token ids of a draft."""
    settings = model.generation_config
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        settings.bos_token_id, settings.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    settings.pad_token_id = tokenizer.pad_token_id


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every float below `value`, with the dotted path to it."""
    if isinstance(value, float):
        yield key, value
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _numbers(item, f"{key}.{name}" if key else str(name))


def _reason(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _count(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _some(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
