"""What has become of stages, and who is at them, seen from outside of the runs that work on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from reproducer.queue.artifact import Failure
from reproducer.queue.locks import Holder
from reproducer.queue.progress import Progress
from reproducer.queue.stage import Stage, topological
from reproducer.queue.store import Store

State = Literal["done", "running", "failed", "open"]


@dataclass(frozen=True)
class Standing:
    """A look at stages.

    Attributes:
        states: of each stage by key; `done` as its record says, its files not verified.
        running: who has a stage, on whatever machine.
        failed: why the last attempt ended, of stages that nobody is at.
        left: seconds until all is done if as many stages run at once as now, and whether that is all (else it is a
            lower bound); None: nothing is known.
    """

    states: dict[str, State]
    running: list[tuple[Stage, Holder]]
    failed: list[tuple[Stage, Failure]]
    left: tuple[float, bool] | None

    def count(self, state: State) -> int:
        """How many stages are in a state."""
        return sum(one == state for one in self.states.values())


class Monitor:
    """Looks at stages again and again: what has been seen before tells how fast those that run are."""

    def __init__(self, stages: Iterable[Stage], store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._stages = topological(stages)
        self._store = store
        self._done: set[str] = set()
        typical = store.typical_seconds(stage.kind for stage in self._stages)
        self._progress = Progress(clock=clock)
        self._progress.begin(self._stages, 0, typical)

    def look(self) -> Standing:
        """What is there now. Changes nothing, and may be called while runs begin and end."""
        states: dict[str, State] = {}
        running, failed = [], []
        for stage in self._stages:
            states[stage.key] = "open"
            if stage.key in self._done or self._store.read(stage) is not None:
                states[stage.key] = "done"
                if stage.key not in self._done:
                    self._done.add(stage.key)
                    self._progress.finish(stage, "cached")
            elif holder := self._holder(stage):
                states[stage.key] = "running"
                running.append((stage, holder))
                if holder.progress is not None:
                    self._progress.update(stage, *holder.progress)
                elif stage.key not in self._progress.running:
                    self._progress.start(stage)
            else:
                self._progress.running.pop(stage.key, None)
                if failure := self._store.failure(stage):
                    states[stage.key] = "failed"
                    failed.append((stage, failure))
        self._progress.slots = max(1, len(running))
        return Standing(states, running, failed, self._progress.time_left())

    def _holder(self, stage: Stage) -> Holder | None:
        lock = self._store.lock(stage)
        holder = lock.holder()  # first: who asks for a lock makes its file
        try:
            return None if holder is None or lock.is_free() else holder
        except OSError:  # a store that may only be read
            return holder
