"""How a run would go on so many workers, by the rule of the scheduler and the seconds that stages are said to take."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reproducer.queue.stage import Stage

Takes = Callable[[Stage, Any], tuple[float, Any]]  # seconds on a worker in that state, and its state behind the stage


@dataclass(frozen=True)
class Schedule:
    """A simulated run.

    Attributes:
        workers: how many there were.
        spans: of each stage by key: its worker, when it began, when it ended (seconds).
        makespan: seconds until all was done.
        busy: seconds that workers worked, all together.
    """

    workers: int
    spans: Mapping[str, tuple[int, float, float]]
    makespan: float
    busy: float

    @property
    def busy_share(self) -> float:
        """Of the time that workers were there, how much they worked."""
        return self.busy / (self.makespan * self.workers) if self.makespan else 1.0


def simulate(stages: Sequence[Stage], takes: Takes, workers: int) -> Schedule:
    """Run `stages` on `workers`: whenever one is free, it gets the first stage in order whose inputs are there.

    A timed stage has all workers to itself: it is passed over while others run, and none begins beside it.

    Args:
        stages: what is to be run, in the order of the queue; inputs that are not among them are there already.
        takes: called once a stage, with the state of the worker that gets it; None is the state of a new one.
    """
    waiting = {stage.key: stage for stage in stages}
    open_inputs = {stage.key: {one.key for one in stage.inputs.values()} & waiting.keys() for stage in stages}
    timed = {stage.key: stage.timed for stage in stages}
    states: list[Any] = [None] * workers
    idle = list(range(workers))
    running: list[tuple[float, int, str]] = []  # by end
    spans: dict[str, tuple[int, float, float]] = {}
    now = 0.0
    while waiting or running:
        for key in [key for key in waiting if not open_inputs[key]]:
            if not idle or any(timed[one] for _, _, one in running):
                break
            if timed[key] and running:
                continue
            worker = heapq.heappop(idle)
            seconds, states[worker] = takes(waiting.pop(key), states[worker])
            spans[key] = worker, now, now + seconds
            heapq.heappush(running, (now + seconds, worker, key))
        now, worker, ended = heapq.heappop(running)
        heapq.heappush(idle, worker)
        for needed in open_inputs.values():
            needed.discard(ended)
    return Schedule(workers, spans, now, sum(end - began for _, began, end in spans.values()))


def critical_path(stages: Sequence[Stage], takes: Takes) -> tuple[list[Stage], float]:
    """The chain of stages that takes longest, each on a new worker, and its seconds: no number of workers is quicker.

    Args:
        stages: inputs first, as for `simulate`.
    """
    best: dict[str, tuple[float, list[Stage]]] = {}
    for stage in stages:
        before = max(
            (best[one.key] for one in stage.inputs.values() if one.key in best), key=_length, default=(0.0, [])
        )
        best[stage.key] = before[0] + takes(stage, None)[0], [*before[1], stage]
    seconds, chain = max(best.values(), key=_length, default=(0.0, []))
    return chain, seconds


def _length(path: tuple[float, list[Stage]]) -> float:
    return path[0]
