"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[Path]:
    """A path in the same folder to write a file or folder to; it takes the place of `path` when the block ends.

    A folder takes the place of nothing, or of an empty one.
    If the block fails, `path` stays as it was. If the process is killed, a hidden file may be left, which the next
    writer of `path` removes.

    Args:
        shared: several processes may write `path` at once: each under a name of its own.
    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12] if shared else 'part'}")
    try:
        _remove(part)
        yield part
        part.replace(path)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write `value` so that `path` holds either its old content or all of the new one, whoever else writes it.

    Args:
        durable: true also after a power cut.
    Raises:
        OSError: and nothing has changed.
    """
    with replacing(path, shared=True) as part, part.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(value, indent=1) + "\n")
        if durable:
            stream.flush()
            os.fsync(stream.fileno())


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none or it is garbled."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def tree_bytes(path: Path) -> int:
    """The size of a file or of all files below a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
