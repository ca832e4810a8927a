"""One attempt at a stage, in whatever process the engine has chosen: take the lock, look, run, write down."""

from __future__ import annotations

import errno
import os
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from reproducer.errors import UserError
from reproducer.queue.artifact import Artifact, Failure
from reproducer.queue.context import Context
from reproducer.queue.locks import StageLock
from reproducer.queue.logs import logged
from reproducer.queue.machine import Meter, describe_machine
from reproducer.queue.stage import Stage
from reproducer.queue.store import Store

NOTE_SECONDS = 0.2  # how often a stage's progress is written down
_FULL = ("no space left on device", "os error 28", "disk is full", "disk quota exceeded")  # libraries' own words


@dataclass(frozen=True)
class End:
    """How an attempt ended; what the stage made, or why it failed, is in the store.

    Attributes:
        status: `held`: another process is at the stage, or has taken it over.
        failure: why it failed.
        messages: what it has said, under the hold of the lock named `token`.
    """

    status: Literal["done", "cached", "failed", "held"]
    failure: Failure | None = None
    messages: tuple[str, ...] = ()
    token: str = ""


def attempt(
    stage: Stage, root: Path, device: str, run: str, environment: Mapping[str, Any], digests: Mapping[str, str]
) -> End:
    """Bring `stage`, whose inputs are in the store at `root`, to an artifact, running it where need be.

    Args:
        run: the name of the run, for the record.
        environment: for the record.
        digests: of the inputs' artifacts as the run has them.
    Raises:
        UserError: the store cannot be used, or the disk is full.
    """
    store = Store(root)
    if not (root / "locks").is_dir():
        hint = "take a --store in a folder that all machines share, under the same path"
        raise UserError(f"the store {root} is not on {socket.gethostname()}", hint)
    with errors_of(store, stage), store.lock(stage) as lock:
        if not lock.acquire([needed.key for needed in stage.inputs.values()], device, run):
            return End("held")
        status = _Attempt(store, stage, lock, device, run, environment, digests).make()
        failure = status if isinstance(status, Failure) else None
        return End("failed" if isinstance(status, Failure) else status, failure, lock.mine.messages, lock.mine.token)


@contextmanager
def errors_of(store: Store, stage: Stage) -> Iterator[None]:
    """The store's own input/output errors as what they are: the end of the run."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise _disk_full(store, stage, error) from error
        raise UserError(f"the store {store.root} cannot be used: {error}") from error


@lru_cache(maxsize=4096)
def fingerprints(stage: Stage, device: str, run: str) -> dict[str, str]:
    """The stage's fingerprints, which a process asks for once in a run."""
    return dict(stage.fingerprints(device))


@dataclass
class _Attempt:
    store: Store
    stage: Stage
    lock: StageLock
    device: str
    run: str
    environment: Mapping[str, Any]
    digests: Mapping[str, str]
    noted: float = 0.0

    def make(self) -> Literal["done", "cached", "held"] | Failure:
        try:
            inputs = self.inputs()
            today = fingerprints(self.stage, self.device, self.run)
        except (Exception, SystemExit) as error:
            return self.failed(error)
        artifact = self.usable(inputs, today)
        if artifact is None:
            self.store.recover(self.stage)
            artifact = self.usable(inputs, today)
        if artifact is not None:
            return "done" if artifact.record.get("run") == self.run else "cached"
        return self.execute(inputs, today)

    def inputs(self) -> dict[str, Artifact]:
        artifacts = {}
        for name, needed in self.stage.inputs.items():
            artifact = self.store.read(needed)
            if artifact is None:
                raise UserError(f"its input '{name}' has gone from the store", "run again to make it anew")
            if artifact.digest != self.digests[name]:
                what = f"its input '{name}' is another in the store than this run has found or made"
                raise UserError(what, "something else has made it anew meanwhile: run again to go on from that")
            artifacts[name] = artifact
        return artifacts

    def usable(self, inputs: dict[str, Artifact], today: dict[str, str]) -> Artifact | None:
        state = self.store.inspect(self.stage, inputs, today)
        if isinstance(state, str):
            kept = self.store.discard(self.stage).relative_to(self.store.root)
            self.say(f"{self.stage.label} runs again: {state} (what was there is kept in {kept})")
            return None
        return state

    def execute(self, inputs: dict[str, Artifact], today: dict[str, str]) -> Literal["done", "held"] | Failure:
        stage, store = self.stage, self.store
        work = store.begin(stage, inputs, today, stage.resumable)
        context = Context(
            work.directory,
            {name: artifact.directory for name, artifact in inputs.items()},
            self.device,
            store.root / "shared",
            {name: artifact.digest for name, artifact in inputs.items()},
            self.progress,
            lambda text: self.say(f"{stage.label}: {text}"),
            work.record,
        )
        self.lock.note(progress=(0.0, 0.0, ""))
        self.log(f"started on {socket.gethostname()}, {self.device}, process {os.getpid()}")
        if work.resumed:
            context.say("goes on from an attempt that did not finish")
        try:
            with Meter(work.spent, work.save if stage.resumable else None) as meter:
                try:
                    with logged(store.log_path(stage)):
                        stage.run(context)
                finally:
                    context.close()
            details = {
                "seconds": meter.seconds,
                "peak_memory_bytes": meter.peak_memory_bytes,
                "peak_cuda_bytes": meter.peak_cuda_bytes,
                "run": self.run,
                "facts": work.facts,
                "environment": {**describe_machine(), **self.environment},
            }
            if not self.lock.is_ours():
                return "held"
            store.commit(stage, inputs, today, details)
        except (Exception, SystemExit) as error:
            if is_disk_full(error):
                raise _disk_full(store, stage, error) from error
            return self.failed(error) if self.lock.is_ours() else "held"
        finally:
            if not stage.resumable and self.lock.is_ours():
                store.leave(stage)
        self.log(f"done in {meter.seconds:.1f} s")
        return "done"

    def failed(self, error: BaseException) -> Failure:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        if isinstance(error, UserError):
            failure = Failure(error.message, error.hint, None, when)
        else:
            text = f"{type(error).__name__}: {error}".strip(": \n").partition("\n")[0]
            trace = "".join(traceback.format_exception(error))
            where = f"traceback in {self.store.failure_path(self.stage).relative_to(self.store.root)}"
            failure = Failure(f"{text} ({where})", None, trace, when)
        self.log(f"failed: {failure.traceback or failure.message}")
        self.store.fail(self.stage, failure)
        return failure

    # what the run that asked for the stage gets to know while it runs

    def progress(self, done: float, total: float, text: str) -> None:
        if time.monotonic() - self.noted >= NOTE_SECONDS:
            self.noted = time.monotonic()
            self.lock.note(progress=(done, total, text))

    def say(self, message: str) -> None:
        self.lock.note(messages=(*self.lock.mine.messages, message))
        self.log(message)

    def log(self, text: str) -> None:
        """A line for the stage's own log."""
        when = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        with suppress(OSError), self.store.log_path(self.stage).open("a", encoding="utf-8") as stream:
            stream.write(f"{when}  {text}\n")  # a full disk is reported by the stage itself


def _disk_full(store: Store, stage: Stage, error: BaseException) -> UserError:
    return UserError(
        f"the disk is full: '{stage.label}' could not write ({error}); the store is {store.root}",
        hint="make room and run again: what was finished is kept",
    )


def is_disk_full(error: BaseException | None) -> bool:
    """Whether `error`, or one it came from, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # safetensors and sqlite say so in words only.
        if any(words in str(error).lower() for words in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
