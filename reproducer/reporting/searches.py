"""What the records of searches tell: how far each got beyond its baselines, what it cost, and how soon it got there.

Trials are counted from 1, the baselines' and the failed or stopped ones among them. What the baselines' trials reached
does not count as the search's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from reproducer.reporting.rows import Estimate, estimate, grouped
from reproducer.stages.results import Baseline, Search

NEAR = 0.02  # of the final best: what counts as converged


def rival(search: Search) -> Baseline | None:
    """The best of the baselines with a value."""
    known = [(baseline.value, i) for i, baseline in enumerate(search.baselines) if baseline.value is not None]
    return search.baselines[min(known)[1]] if known else None


def gap(search: Search) -> float | None:
    """How far, as a share of it, the search's best is below the best baseline."""
    other = rival(search)
    return None if other is None or other.value is None else 1 - search.best.value / other.value


def counted(search: Search) -> int:
    """Trials that count: a failed one, whose process was killed, was made up for by another."""
    return sum(trial.state != "failed" for trial in search.trials)


def best_so_far(search: Search) -> list[float]:
    """After 1, 2, … trials the least value so far of the search's own; infinite before the first of these.

    A trial that is set to a baseline is none of its own.
    """
    values: dict[int, float] = {}
    for trial in search.trials:
        value = trial.value if trial.value is not None and not trial.baseline else math.inf
        values[trial.number] = min(value, values.get(trial.number, math.inf))
    curve: list[float] = []
    for number in range(max(values, default=-1) + 1):
        curve.append(min(values.get(number, math.inf), curve[-1] if curve else math.inf))
    return curve


def trials_until(curve: Sequence[float], limit: float) -> int | None:
    """After how many trials the best so far is at `limit` or below; None if never."""
    return next((count for count, value in enumerate(curve, start=1) if value <= limit), None)


def settled(search: Search) -> int | None:
    """After how many trials the best so far of its own is within `NEAR` of the final one."""
    curve = best_so_far(search)
    return trials_until(curve, (1 + NEAR) * curve[-1]) if curve and curve[-1] < math.inf else None


@dataclass(frozen=True)
class SearchLine:
    """Searches that differ in the seed alone, or a single one: the first, and means over seeds."""

    first: Search
    seeds: int
    trials: int
    best: Estimate
    gap: Estimate | None
    settled: float | None
    seconds: float

    @property
    def rival(self) -> Baseline | None:
        return rival(self.first)


def summarised(searches: Sequence[Search]) -> SearchLine:
    """One line of searches that differ in the seed alone."""
    known = [count for search in searches if (count := settled(search)) is not None]
    best = estimate([search.best.value for search in searches])
    assert best is not None
    return SearchLine(
        searches[0],
        seeds=len(searches),
        trials=counted(searches[0]),
        best=best,
        gap=estimate([share for search in searches if (share := gap(search)) is not None]),
        settled=fmean(known) if known else None,
        seconds=fmean(search.seconds for search in searches),
    )


def alike(searches: Sequence[Search]) -> list[list[Search]]:
    """Searches that differ in the seed alone, together."""
    return grouped(searches, lambda search: (search.label, search.model, search.ratio, search.structure_ratio))


def histories(searches: Sequence[Search]) -> list[list[list[Search]]]:
    """Searches of one model, cut and objective together, and of these those of a label; each has a value of its own."""

    def compared_by(search: Search) -> tuple[Any, ...]:
        objective = (*search.texts, search.settings.get("split"), search.settings.get("windows"))
        return search.model, search.ratio, search.structure_ratio, objective

    own = [search for search in searches if min(best_so_far(search), default=math.inf) < math.inf]
    return [alike(group) for group in grouped(own, compared_by)]
