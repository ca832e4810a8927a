"""One lock a stage, which the operating system releases when its process dies, and what its holder tells."""

import os
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from reproducer.queue.files import read_json, write_json


@dataclass(frozen=True)
class Holder:
    """Who has a stage: a process id, since when, the keys of the artifacts that it reads, and how far it is.

    `progress` is (done, total, text); None: the stage has not told any.
    """

    pid: int
    since: str
    inputs: tuple[str, ...] = ()
    progress: tuple[float, float, str] | None = None

    def __str__(self) -> str:
        return f"process {self.pid}, at it since {self.since}"


class StageLock:
    """The lock of the stage `key` in `folder`: `acquire` never waits; leaving the `with` block releases.

    The lock is on `<key>.lock`; `<key>.json` beside it only says who has it, and may outlive a killed process.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._note = folder / f"{key}.json"
        self._path = folder / f"{key}.lock"
        self._writing = threading.Lock()
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
            self._holder = Holder(os.getpid(), since, tuple(sorted(inputs)))
            write_json(self._note, asdict(self._holder))
        except BaseException:
            self._lock.release()
            raise
        return True

    def tell(self, done: float, total: float, text: str) -> None:
        """Write down how far the holder is. Where that cannot be written nothing is told."""
        with self._writing:
            if self._lock.is_locked:
                with suppress(OSError):  # a full disk is reported by the stage itself
                    write_json(self._note, asdict(replace(self._holder, progress=(done, total, text))))

    def release(self) -> None:
        """Give the lock back if it is held."""
        with self._writing:
            if self._lock.is_locked:
                self._note.unlink(missing_ok=True)
                self._lock.release()

    def remove(self) -> None:
        """Give the held lock back and leave no file behind (a waiting process notices and makes a new file)."""
        self._path.unlink(missing_ok=True)
        self.release()

    def is_free(self) -> bool:
        """Whether nobody has the lock."""
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        self._lock.release()
        return True

    def holder(self) -> Holder | None:
        """Who has the lock, as far as it is written down."""
        note = read_json(self._note)
        try:
            if not note:
                return None
            told = note["progress"]
            progress = None if told is None else (float(told[0]), float(told[1]), str(told[2]))
            return Holder(note["pid"], note["since"], tuple(note["inputs"]), progress)
        except (KeyError, TypeError, ValueError, IndexError):
            return None

    def __enter__(self) -> "StageLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
