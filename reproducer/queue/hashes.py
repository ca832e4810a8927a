"""Hashes of an artifact's files that are not computed twice."""

import hashlib
from pathlib import Path

from reproducer.files import read_json, write_json

LARGE = 1 << 18  # bytes; smaller files are hashed every time, which costs less than to keep books on them


class Hashes:
    """SHA-256 digests of one artifact's files. A large file that has kept its size and mtime is not read again.

    Digests are kept in the file `kept`, outside the artifact, so that other processes profit too.
    """

    def __init__(self, kept: Path) -> None:
        self._path = kept
        self._known = read_json(kept) or {}
        self._changed = False

    def digest(self, path: Path, name: str) -> str:
        """The digest of `path`, kept under `name`. OSError where it cannot be read."""
        status = path.stat()
        version = [status.st_size, status.st_mtime_ns]
        known = self._known.get(name)
        if isinstance(known, list) and known[:2] == version and len(known) == 3:
            return str(known[2])
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if status.st_size >= LARGE:
            self._known[name] = [*version, digest]
            self._changed = True
        return digest

    def save(self) -> None:
        """Keep what was computed. A store that cannot be written is no error here: it is only a cache."""
        if self._changed:
            try:
                write_json(self._path, self._known)
            except OSError:
                return
            self._changed = False
