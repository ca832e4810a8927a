"""The formats that a pruned model can be written in: the one place that knows them by name. Imports no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reproducer.errors import UserError, nearest
from reproducer.models.quiet import quiet

Writer = Callable[[Any, Any, Path, str | None], None]
"""Writes a cut model and its tokenizer (None: there is none) into a folder that exists and is empty.

The last argument is the type of the stored weights; None: the format's own choice.
"""
GGUF_TYPE = "f16"


def _transformers(model: Any, tokenizer: Any, directory: Path, type: str | None) -> None:
    from reproducer.models.export.folder import saves_widths

    with quiet():
        saves_widths(model).save_pretrained(directory, max_shard_size="5GB")  # type: ignore[operator]
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)


def _llama_cpp(model: Any, tokenizer: Any, directory: Path, type: str | None) -> None:
    from reproducer.models.gguf.writer import write_gguf

    if tokenizer is None:
        raise UserError("a GGUF file holds the model's tokenizer, and there is none", "pass `tokenizer`")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        write_gguf(model, folder, directory / gguf_file(type), type or GGUF_TYPE)


def gguf_file(type: str | None) -> str:
    """The name of a GGUF file."""
    return f"model-{type or GGUF_TYPE}.gguf"


FORMATS: Mapping[str, Writer] = {"hf": _transformers, "gguf": _llama_cpp}


def writer(name: str, type: str | None = None) -> Writer:
    """The writer of a format. UserError: there is none of this name, or it does not know the type of weights."""
    if name not in FORMATS:
        raise UserError(f"unknown format '{name}'", nearest(name, list(FORMATS)))
    if type is not None:
        if name != "gguf":
            raise UserError(f"the format {name} does not quantise weights", "quantize is for gguf")
        from reproducer.models.gguf.types import file_type

        file_type(type)
    return FORMATS[name]
