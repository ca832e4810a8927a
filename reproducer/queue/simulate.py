"""How a run would go on so many workers, by the rule of the scheduler and the seconds that stages are said to take."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from operator import itemgetter

from reproducer.queue.stage import Stage

Spans = Mapping[str, tuple[int, float, float]]  # of stages by key: worker, when it begins, when it ends (seconds)


def simulate(stages: Sequence[Stage], seconds: Mapping[str, float], workers: int) -> Spans:
    """Run `stages` on `workers`: whenever one is free, it gets the first stage in order whose inputs are there.

    A timed stage has all workers to itself: it is passed over while others run, and none begins beside it.

    Args:
        stages: what is to be run, in the order of the queue; inputs that are not among them are there already.
        seconds: of each, by key.
    """
    waiting = {stage.key: stage for stage in stages}
    missing = {stage.key: {needed.key for needed in stage.inputs.values()} & waiting.keys() for stage in stages}
    idle, now = list(range(workers)), 0.0
    running: list[tuple[float, int, Stage]] = []
    spans: dict[str, tuple[int, float, float]] = {}
    while waiting or running:
        for key in [key for key in waiting if not missing[key]]:
            if not idle or any(stage.timed for _, _, stage in running):
                break
            if waiting[key].timed and running:
                continue
            worker = heapq.heappop(idle)
            spans[key] = worker, now, now + seconds[key]
            heapq.heappush(running, (now + seconds[key], worker, waiting.pop(key)))
        now, worker, ended = heapq.heappop(running)
        heapq.heappush(idle, worker)
        for needed in missing.values():
            needed.discard(ended.key)
    return spans


def makespan(spans: Spans) -> float:
    """Seconds until all is done."""
    return max((ended for _, _, ended in spans.values()), default=0.0)


def critical_path(stages: Sequence[Stage], seconds: Mapping[str, float]) -> tuple[list[Stage], float]:
    """The chain of stages that takes longest, and its seconds: no number of workers is quicker.

    Args:
        stages: inputs first, as for `simulate`.
    """
    longest: dict[str, tuple[float, list[Stage]]] = {}
    for stage in stages:
        chains = [longest[needed.key] for needed in stage.inputs.values() if needed.key in longest]
        before, chain = max(chains, key=itemgetter(0), default=(0.0, []))
        longest[stage.key] = before + seconds[stage.key], [*chain, stage]
    least, chain = max(longest.values(), key=itemgetter(0), default=(0.0, []))
    return chain, least
