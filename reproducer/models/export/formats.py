"""The formats that a pruned model can be written in: the one place that knows them by name. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reproducer.errors import UserError, nearest

Writer = Callable[[Any, Any, Path], None]
"""Writes a cut model and its tokenizer (None: there is none) into a folder that exists and is empty."""


def _transformers(model: Any, tokenizer: Any, directory: Path) -> None:
    from reproducer.models.export.folder import saves_widths
    from reproducer.models.quiet import quiet

    with quiet():
        saves_widths(model).save_pretrained(directory, max_shard_size="5GB")  # type: ignore[operator]
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)


FORMATS: Mapping[str, Writer] = {"hf": _transformers}


def writer(name: str) -> Writer:
    """The writer of a format. UserError: there is none of this name."""
    if name not in FORMATS:
        raise UserError(f"unknown format '{name}'", nearest(name, list(FORMATS)))
    return FORMATS[name]
