"""One process's walk over the stages: take a lock, look, run, write down."""

import copy
import errno
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from reproducer.errors import UserError
from reproducer.queue.artifact import Artifact, Failure
from reproducer.queue.handler import Context, Handler
from reproducer.queue.locks import Holder
from reproducer.queue.machine import Meter, describe_machine
from reproducer.queue.outcome import Result, Status, inputs_of
from reproducer.queue.progress import Progress
from reproducer.queue.stage import Stage, canonical
from reproducer.queue.store import Store

POLL_SECONDS = 0.1  # how often a stage that another process has is asked for
_FULL = ("no space left on device", "os error 28", "disk is full", "disk quota exceeded")  # libraries' own words


class Runner:
    """One process's walk over the stages. What it shares with other processes is in the store alone."""

    def __init__(
        self,
        order: list[Stage],
        handlers: Mapping[str, Handler],
        store: Store,
        progress: Progress,
        environment: Mapping[str, Any],
        run_id: str,
    ) -> None:
        for stage in order:
            if stage.kind not in handlers or handlers[stage.kind].version != stage.version:
                raise ValueError(f"stage '{stage.label}': no handler for {stage.kind} version {stage.version}")
        self.results: dict[str, Result] = {}
        self.run_id = run_id
        self.colleagues: frozenset[int] = frozenset()  # whom to wait for without a word: this run's processes
        self.announce = True  # say whom this waits for
        self.between: Callable[[], None] = lambda: None
        self._order = order
        self._handlers = handlers
        self._store = store
        self._progress = progress
        self._environment = environment
        self._fingerprints: dict[str, dict[str, str]] = {}
        self._announced: set[tuple[str, Holder]] = set()

    def open(self) -> list[Stage]:
        """The stages that are not settled yet, in order."""
        return [stage for stage in self._order if stage.key not in self.results]

    def collect(self) -> None:
        """Settle what is in the store and good; needs no lock and changes nothing."""
        for stage in self._order:
            inputs = inputs_of(stage, self.results)
            if isinstance(inputs, dict):
                try:
                    state = self._store.inspect(stage, inputs, self._today(stage))
                except Exception:  # said by the attempt that follows
                    continue
                if isinstance(state, Artifact):
                    self.results[stage.key] = Result(stage, "cached", artifact=state)

    def loop(self) -> None:
        """Settle all stages."""
        while self.open():
            settled = False
            for stage in self.open():
                self.between()
                inputs = inputs_of(stage, self.results)
                if inputs is None:
                    continue
                result = inputs if isinstance(inputs, Result) else self._guarded(stage, inputs)
                if result is not None:
                    self.results[stage.key] = result
                    self._progress.finish(stage, result.status, result.seconds, result.message)
                    settled = True
            if not settled:
                self._wait()

    def _wait(self) -> None:
        for stage in self.open() if self.announce else ():
            holder = self._store.lock(stage).holder()
            ready = isinstance(inputs_of(stage, self.results), dict)
            if ready and holder and holder.pid not in self.colleagues and (stage.key, holder) not in self._announced:
                self._announced.add((stage.key, holder))
                self._progress.say(f"waiting for {stage.label}: {holder}")
        time.sleep(POLL_SECONDS)

    def _guarded(self, stage: Stage, inputs: dict[str, Artifact]) -> Result | None:
        """`_attempt`, with the store's own input/output errors as what they are: the end of this run."""
        try:
            return self._attempt(stage, inputs)
        except OSError as error:
            if is_disk_full(error):
                raise self._disk_full(stage, error) from error
            raise UserError(f"the store {self._store.root} cannot be used: {error}") from error

    def _attempt(self, stage: Stage, inputs: dict[str, Artifact]) -> Result | None:
        """The stage's result, running it where need be; None while another process is at it."""
        with self._store.lock(stage) as lock:
            if not lock.acquire([artifact.key for artifact in inputs.values()]):
                return None
            failure = self._store.failure(stage)
            if failure and failure.run == self.run_id:  # a worker of this run has tried
                return Result(stage, "failed", failure.message)
            try:
                today = self._today(stage)
            except (Exception, SystemExit) as error:
                return self._failed(stage, error)
            state = self._usable(stage, inputs, today)
            if state is None:
                self._store.recover(stage)
                state = self._usable(stage, inputs, today)
            if state is not None:
                status: Status = "done" if state.record.get("run") == self.run_id else "cached"
                return Result(stage, status, artifact=state)
            return self._execute(stage, inputs, today)

    def _usable(self, stage: Stage, inputs: dict[str, Artifact], today: dict[str, str]) -> Artifact | None:
        state = self._store.inspect(stage, inputs, today)
        if isinstance(state, str):
            kept = self._store.discard(stage).relative_to(self._store.root)
            self._progress.say(f"{stage.label} runs again: {state} (what was there is kept in {kept})")
            return None
        return state

    def _execute(self, stage: Stage, inputs: dict[str, Artifact], today: dict[str, str]) -> Result:
        handler = self._handlers[stage.kind]
        work = self._store.begin(stage, inputs, today, handler.resumable)
        context = Context(
            stage=stage,
            params=copy.deepcopy(dict(stage.params)),
            directory=work.directory,
            inputs={name: artifact.directory for name, artifact in inputs.items()},
            _progress=lambda done, total, text: self._progress.update(stage, done, total, text),
            _say=lambda text: self._progress.say(f"{stage.label}: {text}"),
            _record=work.record,
        )
        self._progress.start(stage)
        if work.resumed:
            self._progress.say(f"{stage.label}: goes on from an attempt that did not finish")
        try:
            with Meter(work.spent, work.save if handler.resumable else None) as meter:
                handler.run(context)
            details = {
                "seconds": meter.seconds,
                "peak_memory_bytes": meter.peak_memory_bytes,
                "peak_cuda_bytes": meter.peak_cuda_bytes,
                "run": self.run_id,
                "facts": work.facts,
                "environment": {**describe_machine(), **self._environment},
            }
            artifact = self._store.commit(stage, inputs, today, details)
        except (Exception, SystemExit) as error:
            if is_disk_full(error):
                raise self._disk_full(stage, error) from error
            return self._failed(stage, error)
        finally:
            if not handler.resumable:
                self._store.leave(stage)
        return Result(stage, "done", artifact=artifact)

    def _today(self, stage: Stage) -> dict[str, str]:
        """The fingerprints of what the stage reads outside the store, asked for once a run."""
        source = self._handlers[stage.kind].fingerprints
        if source is None:
            return {}
        name = canonical({"kind": stage.kind, "params": stage.params})
        if name not in self._fingerprints:
            self._fingerprints[name] = dict(source(copy.deepcopy(dict(stage.params))))
        return self._fingerprints[name]

    def _failed(self, stage: Stage, error: BaseException) -> Result:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        if isinstance(error, UserError):
            failure = Failure(error.message, error.hint, None, when, self.run_id)
        else:
            text = f"{type(error).__name__}: {error}".strip(": \n").partition("\n")[0]
            trace = "".join(traceback.format_exception(error))
            where = f"traceback in {self._store.failure_path(stage).relative_to(self._store.root)}"
            failure = Failure(f"{text} ({where})", None, trace, when, self.run_id)
        self._store.fail(stage, failure)
        return Result(stage, "failed", failure.message)

    def _disk_full(self, stage: Stage, error: BaseException) -> UserError:
        return UserError(
            f"the disk is full: '{stage.label}' could not write ({error}); the store is {self._store.root}",
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
