"""One lock a stage, which the operating system releases when its process dies."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from reproducer.queue.files import read_json, write_json


@dataclass(frozen=True)
class Holder:
    """Who has a stage: a process id, since when, and the keys of the artifacts that it reads."""

    pid: int
    since: str
    inputs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"process {self.pid}, at it since {self.since}"


class StageLock:
    """The lock of the stage `key` in `folder`: `acquire` never waits; leaving the `with` block releases.

    The lock is on `<key>.lock`; `<key>.json` beside it only says who has it, and may outlive a killed process.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._note = folder / f"{key}.json"
        self._path = folder / f"{key}.lock"
        # A soft lock would not be released by a SIGKILL, so there is no falling back to one.
        self._lock = FileLock(self._path, thread_local=False, fallback_to_soft=False)

    def acquire(self, inputs: Collection[str] = ()) -> bool:
        """Take the lock if it is free. OSError where the file system cannot lock or be written."""
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        try:
            since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            write_json(self._note, {"pid": os.getpid(), "since": since, "inputs": sorted(inputs)})
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        """Give the lock back if it is held."""
        if self._lock.is_locked:
            self._note.unlink(missing_ok=True)
            self._lock.release()

    def remove(self) -> None:
        """Give the held lock back and leave no file behind (a waiting process notices and makes a new file)."""
        self._path.unlink(missing_ok=True)
        self.release()

    def holder(self) -> Holder | None:
        """Who has the lock, as far as it is written down."""
        note = read_json(self._note)
        try:
            return Holder(note["pid"], note["since"], tuple(note["inputs"])) if note else None
        except (KeyError, TypeError):
            return None

    def __enter__(self) -> "StageLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
