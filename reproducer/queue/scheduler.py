"""Runs stages: each once, whatever is in the store already and whoever else works on it."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from reproducer.queue.artifact import Artifact, Failure
from reproducer.queue.attempt import End, attempt, errors_of, fingerprints
from reproducer.queue.engines import Engine
from reproducer.queue.engines.local import InProcess
from reproducer.queue.outcome import Outcome, Result, inputs_of
from reproducer.queue.progress import Progress
from reproducer.queue.stage import Stage, canonical, topological
from reproducer.queue.store import Store
from reproducer.queue.watch import Watch

POLL_SECONDS = 0.1  # how often a stage that another run has is asked for
TRIES = 3  # for a stage whose process was killed, or whose machine has gone
KILLED = "the process that ran it was killed"
Settled = Callable[[Stage, Mapping[str, Result]], None]  # the stage, and the results so far by key


def run(
    stages: Iterable[Stage],
    store: Store,
    engine: Engine | None = None,
    devices: Sequence[str] = ("cpu",),
    progress: Progress | None = None,
    environment: Mapping[str, Any] | None = None,
    settled: Settled | None = None,
    memory: Mapping[str, int] | None = None,
) -> Outcome:
    """Bring `stages`, and all that they need, to an artifact each.

    A stage that fails blocks those that need it; all others still run. Stages that another run on the same store is at
    are left for later and then waited for. Whatever ends this process, the next run goes on from what was finished.

    Args:
        engine: where stages run; this process by default. It is closed at the end.
        devices: the engine's slot i computes on devices[i], counted round.
        progress: the display; None shows nothing.
        environment: package versions and the like for the records, beside Python, platform and CPU.
        settled: called after each stage that this run settles.
        memory: bytes that stages need, by key, for an engine that finds machines by itself.
    Raises:
        UserError: the store cannot be used, or the disk is full; what was finished is kept.
        KeyboardInterrupt: likewise.
    """
    canonical(environment or {}, "environment")  # fail now and not when the first stage has finished
    scheduler = _Scheduler(
        topological(stages),
        store,
        engine or InProcess(),
        devices,
        progress or Progress(),
        environment or {},
        settled,
        memory,
    )
    with scheduler.closing:
        scheduler.collect()
        scheduler.loop()
    return Outcome({stage.key: scheduler.results[stage.key] for stage in scheduler.order})


@dataclass
class _Scheduler:
    """Hands stages to the engine, as many at once as it has slots, and takes down what became of them.

    The first fields are the arguments of `run`, the others what is known by now.
    """

    order: list[Stage]
    store: Store
    engine: Engine
    devices: Sequence[str]
    progress: Progress
    environment: Mapping[str, Any]
    settled: Settled | None
    memory: Mapping[str, int] | None
    results: dict[str, Result] = field(default_factory=dict)
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    running: dict[int, tuple[Stage, Future[End]]] = field(default_factory=dict)  # by slot
    lost: Counter[str] = field(default_factory=Counter)
    announced: set[str] = field(default_factory=set)  # tokens of holders that this run waits for
    stranded: bool = False

    def __post_init__(self) -> None:
        self.watch = Watch(self.store, self.run, self.progress)
        # Last first, and each whatever becomes of the others: a display that is not closed hides the cursor.
        self.closing = ExitStack()
        for thing in (self.progress, self.watch, self.engine):
            self.closing.callback(thing.close)

    def open(self) -> list[Stage]:
        """The stages that are not settled yet, in order."""
        return [stage for stage in self.order if stage.key not in self.results]

    def collect(self) -> None:
        """Settle what is good in the store; needs no lock and changes nothing."""
        for stage in self.order:
            inputs = inputs_of(stage, self.results)
            if not isinstance(inputs, dict):
                continue
            for device in dict.fromkeys(self.devices):  # one made on any of them is good
                try:
                    state = self.store.inspect(stage, inputs, fingerprints(stage, device, self.run))
                except Exception:  # said by the attempt that follows
                    break
                if isinstance(state, Artifact):
                    self.results[stage.key] = Result(stage, "cached", artifact=state)
                    break

    def loop(self) -> None:
        """Settle all stages."""
        todo = self.open()
        if todo:
            self.store.prepare()
        typical = self.store.typical_seconds(stage.kind for stage in todo)
        self.progress.begin(todo, len(self.order) - len(todo), typical, self.engine.slots)
        self.watch.start()
        while stages := self.open():
            before, held = len(self.results), self._hand_out(stages)
            if self.running:
                wait([future for _, future in self.running.values()], POLL_SECONDS, FIRST_COMPLETED)
            elif len(self.results) == before:
                self._announce(held)
                time.sleep(POLL_SECONDS)

    def _hand_out(self, stages: Sequence[Stage]) -> list[Stage]:
        """Give stages whose inputs are there to free slots; returns those that other runs are at."""
        held = []
        for stage in stages:
            self._take_finished()
            inputs = inputs_of(stage, self.results)
            running = [running for running, _ in self.running.values()]
            if isinstance(inputs, Result):
                self._settle(inputs)
            elif inputs is not None and stage.key not in self.results and stage not in running:
                slot = next((slot for slot in range(self.engine.slots) if slot not in self.running), None)
                if slot is None or any(stage.timed for stage in running):
                    break
                if stage.timed and running:
                    continue
                with errors_of(self.store, stage):
                    is_free = self.store.lock(stage).is_free()
                if is_free:
                    self._submit(stage, slot, inputs)
                else:
                    held.append(stage)
        return held

    def _submit(self, stage: Stage, slot: int, inputs: Mapping[str, Artifact]) -> None:
        self.watch.add(stage)
        device = self.devices[slot % len(self.devices)]
        needs = {} if self.memory is None else {"memory": self.memory.get(stage.key, 0)}
        digests = {name: artifact.digest for name, artifact in inputs.items()}
        how = self.store.root, device, self.run, self.environment, digests
        self.running[slot] = stage, self.engine.submit(attempt, stage, *how, **needs)

    def _take_finished(self) -> None:
        self.watch.check()
        for slot, (stage, future) in list(self.running.items()):
            if not future.done():
                continue
            del self.running[slot]
            error = future.exception()
            if isinstance(error, BrokenExecutor):
                self._take_lost(stage)
            elif error is not None:
                raise error
            else:
                self._take(stage, future.result())

    def _take(self, stage: Stage, end: End) -> None:
        """Settle a stage by what is in the store. It stays open where that is nothing: another run is at it, or was."""
        self.watch.remove(stage, end)
        if end.failure is not None:
            self._settle(Result(stage, "failed", end.failure.message))
        elif end.status != "held" and isinstance(inputs := inputs_of(stage, self.results), dict):
            state = self.store.inspect(stage, inputs)
            if isinstance(state, Artifact):
                self._settle(Result(stage, end.status, artifact=state))

    def _take_lost(self, stage: Stage) -> None:
        self.watch.remove(stage)
        self.lost[stage.key] += 1
        if self.lost[stage.key] < TRIES:
            self.progress.say(f"{stage.label}: {KILLED}; it is tried again")
            return
        hint = "the system does so when memory runs out: run fewer stages at once"
        when = datetime.now(UTC).isoformat(timespec="seconds")
        failure = Failure(f"{KILLED}, {TRIES} times", hint, None, when)
        with errors_of(self.store, stage), self.store.lock(stage) as lock:
            if lock.acquire():  # else another run has it now
                self.store.fail(stage, failure)
                self._settle(Result(stage, "failed", failure.message))

    def _settle(self, result: Result) -> None:
        self.results[result.stage.key] = result
        self.progress.finish(result.stage, result.status, result.seconds, result.message)
        if self.settled is not None:
            self.settled(result.stage, self.results)

    def _announce(self, held: Sequence[Stage]) -> None:
        """Say what a run that can do nothing waits for."""
        if self.stranded != (stranded := self.engine.slots == 0):
            self.stranded = stranded
            self.progress.say("no machine is left; the run goes on when one joins" if stranded else "a machine joined")
        for stage in held:
            holder = self.store.lock(stage).holder()
            if holder and holder.token not in self.announced:
                self.announced.add(holder.token)
                self.progress.say(f"waiting for {stage.label}: {holder}")
                self.watch.add(stage)
