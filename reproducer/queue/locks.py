"""One lock a stage, which the operating system releases when its process dies, and a note of who holds it.

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
from typing import Any

from filelock import FileLock, Timeout

from reproducer.files import read_json, write_json


@dataclass(frozen=True)
class Holder:
    """Who is at a stage.

    Attributes:
        pid, host, device: the process, its machine, and what it computes on.
        since: when it took the stage, in ISO format.
        run: the name of its run.
        inputs: the keys of the artifacts that it reads.
        token: tells this hold of the lock from any other.
        progress: (done, total, text); None: the stage itself has not begun.
        messages: what the stage has said to the user.
    """

    pid: int
    host: str
    device: str
    since: str
    run: str
    inputs: tuple[str, ...]
    token: str
    progress: tuple[float, float, str] | None = None
    messages: tuple[str, ...] = ()

    @classmethod
    def of_note(cls, note: Mapping[str, Any] | None) -> "Holder | None":
        """The holder whose fields a note has; None where there is none or it is garbled."""
        try:
            fields = dict(note or {})
            if (progress := fields["progress"]) is not None:
                fields["progress"] = (float(progress[0]), float(progress[1]), str(progress[2]))
            return cls(**fields | {name: tuple(fields[name]) for name in ("inputs", "messages")})
        except (KeyError, TypeError, ValueError, IndexError):
            return None

    def __str__(self) -> str:
        elsewhere = f" on {self.host}" if self.host != socket.gethostname() else ""
        return f"process {self.pid}{elsewhere}, at it since {self.since}"


class StageLock:
    """The lock of the stage `key` in `folder`: `acquire` never waits; leaving the `with` block releases.

    The lock is on `<key>.lock`; `<key>.json` only says who holds it, and may outlive a killed process.

    Attributes:
        mine: what the note says since this process took the lock.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key}.lock"
        self._note = folder / f"{key}.json"
        self._writing = threading.Lock()
        # A soft lock would not be released by a SIGKILL, so there is no falling back to one.
        self._lock = FileLock(self.path, thread_local=False, fallback_to_soft=False)

    def acquire(self, inputs: Collection[str] = (), device: str = "", run: str = "") -> bool:
        """Take the lock if it is free. OSError where the file system cannot lock or be written."""
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        try:
            since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            token = uuid.uuid4().hex
            self.mine = Holder(os.getpid(), socket.gethostname(), device, since, run, tuple(sorted(inputs)), token)
            write_json(self._note, asdict(self.mine))
        except BaseException:
            self._lock.release()
            raise
        return True

    def note(self, **changes: Any) -> None:
        """Write down what has changed of the holder, where that can be written and the lock is still ours."""
        with self._writing:
            self.mine = replace(self.mine, **changes)
            if self._lock.is_locked and self.is_ours():
                with suppress(OSError):  # a full disk is reported by the stage itself
                    write_json(self._note, asdict(self.mine))

    def is_ours(self) -> bool:
        """Whether nobody has taken the lock since this process did: a file server may have given it up."""
        holder = self.holder()
        return holder is not None and holder.token == self.mine.token

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
        """Who has the lock, as far as it is written down: a killed process's note may be left."""
        return Holder.of_note(read_json(self._note))

    def __enter__(self) -> "StageLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
