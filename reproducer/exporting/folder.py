"""A folder that is there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from reproducer.errors import UserError
from reproducer.files import replacing


@contextmanager
def new_folder(directory: Path) -> Iterator[Path]:
    """A folder beside `directory` to write into, which takes its name at the end, or is removed where that fails.

    Raises:
        UserError: `directory` is not empty or no folder, or cannot be written: the disk is full, say.
    """
    check_new(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with replacing(directory, shared=True) as unfinished:
            unfinished.mkdir()
            yield unfinished
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        hint = "nothing is left of it; make room, or choose another folder"
        raise UserError(f"the model cannot be written to {directory}: {reason}", hint) from error


def check_new(directory: Path) -> None:
    """UserError unless a folder can appear as `directory` without taking anything's place."""
    try:
        if not directory.name or (directory.exists() and (not directory.is_dir() or any(directory.iterdir()))):
            state = "is not empty" if directory.is_dir() else "is not a folder"
            raise UserError(f"{directory} {state}", "name a folder that is not there yet, or an empty one")
    except OSError as error:
        raise UserError(f"{directory} cannot be made: {error.strerror}", "name another folder") from error
