"""JSON files that are whole or absent, and hashes of files that are not computed twice."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGE = 1 << 18  # bytes; smaller files are hashed every time, which costs less than to keep books on them


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write `value` so that `path` holds either its old content or all of the new one.

    Args:
        durable: true also after a power cut.
    Raises:
        OSError: and nothing has changed.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")  # process ids are not unique among machines
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(value, indent=1) + "\n")
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none or it is garbled."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def tree(folder: Path) -> Iterator[Path]:
    """All files below `folder`, in a fixed order.

    Raises:
        ValueError: there is a link: what it points to is not in the folder and cannot be vouched for.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ValueError(f"'{path.relative_to(folder)}' is a link; an artifact holds plain files only")
        if path.is_file():
            yield path


def tree_bytes(path: Path) -> int:
    """The size of a file or of all files below a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(one.lstat().st_size for one in path.rglob("*") if not one.is_dir())


class Hashes:
    """SHA-256 digests of one artifact's files. A large file that has kept its size and mtime is not read again.

    What was found is kept in `sidecar`, outside the artifact, so that other processes profit too.
    """

    def __init__(self, sidecar: Path) -> None:
        self._sidecar = sidecar
        self._known = read_json(sidecar) or {}
        self._changed = False

    def digest(self, path: Path, name: str) -> str:
        """The digest of `path`, known under `name` in the sidecar. OSError where it cannot be read."""
        status = path.stat()
        seen = [status.st_size, status.st_mtime_ns]
        known = self._known.get(name)
        if isinstance(known, list) and known[:2] == seen and len(known) == 3:
            return str(known[2])
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if status.st_size >= LARGE:
            self._known[name] = [*seen, found]
            self._changed = True
        return found

    def save(self) -> None:
        """Keep what was computed. A store that cannot be written is no error here: it is only a cache."""
        if self._changed:
            try:
                write_json(self._sidecar, self._known)
            except OSError:
                return
            self._changed = False
