"""One lock a stage, which the operating system releases when its process dies, and what its holder tells.

It is the system's advisory lock (flock) on a file of the store. On a file system that machines share, its server keeps
the lock: a process that dies gives it back at once, a machine that dies when the server gives it up (NFS 4: after the
lease, 90 seconds by default). Until then others wait, and say for whom. A machine that was cut off and comes back finds
that its lock is another's, and publishes nothing.
"""

import os
import socket
import threading
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from reproducer.files import read_json, write_json


@dataclass(frozen=True)
class Holder:
    """Who has a stage: a process of a machine, since when, the keys of the artifacts that it reads, and how far it is.

    `device` is what it computes on; `progress` is (done, total, text), None: the stage has not told any; `token` tells
    this hold of the lock from any other.
    """

    pid: int
    since: str
    inputs: tuple[str, ...] = ()
    progress: tuple[float, float, str] | None = None
    host: str = ""
    device: str = ""
    token: str = ""

    @classmethod
    def told(cls, note: Mapping[str, Any] | None) -> "Holder | None":
        """The holder whose fields a note has; None where there is none or it is garbled."""
        try:
            if not note:
                return None
            told = note["progress"]
            progress = None if told is None else (float(told[0]), float(told[1]), str(told[2]))
            where = note["host"], note["device"], note["token"]
            return cls(note["pid"], note["since"], tuple(note["inputs"]), progress, *where)
        except (KeyError, TypeError, ValueError, IndexError):
            return None

    def __str__(self) -> str:
        elsewhere = f" on {self.host}" if self.host != socket.gethostname() else ""
        return f"process {self.pid}{elsewhere}, at it since {self.since}"


class StageLock:
    """The lock of the stage `key` in `folder`: `acquire` never waits; leaving the `with` block releases.

    The lock is on `<key>.lock`; `<key>.json` beside it only says who has it, and may outlive a killed process.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key}.lock"
        self._note = folder / f"{key}.json"
        self._writing = threading.Lock()
        # A soft lock would not be released by a SIGKILL, so there is no falling back to one.
        self._lock = FileLock(self.path, thread_local=False, fallback_to_soft=False)

    def acquire(self, inputs: Collection[str] = (), device: str = "") -> bool:
        """Take the lock if it is free. OSError where the file system cannot lock or be written."""
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        try:
            since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            host, token = socket.gethostname(), uuid.uuid4().hex
            self._holder = Holder(os.getpid(), since, tuple(sorted(inputs)), None, host, device, token)
            write_json(self._note, asdict(self._holder))
        except BaseException:
            self._lock.release()
            raise
        return True

    def tell(self, done: float, total: float, text: str) -> None:
        """Write down how far the holder is. Where that cannot be written nothing is told."""
        with self._writing:
            if self._lock.is_locked and self.is_ours():
                with suppress(OSError):  # a full disk is reported by the stage itself
                    write_json(self._note, asdict(replace(self._holder, progress=(done, total, text))))

    def is_ours(self) -> bool:
        """Whether nobody has taken the lock since this process did: a file server may have given it up."""
        holder = self.holder()
        return holder is not None and holder.token == self._holder.token

    def release(self) -> None:
        """Give the lock back if it is held."""
        with self._writing:
            if self._lock.is_locked:
                if self.is_ours():
                    self._note.unlink(missing_ok=True)
                self._lock.release()

    def remove(self) -> None:
        """Give the held lock back and leave no file behind (a waiting process notices and makes a new file)."""
        self.path.unlink(missing_ok=True)
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
        return Holder.told(read_json(self._note))

    def __enter__(self) -> "StageLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
