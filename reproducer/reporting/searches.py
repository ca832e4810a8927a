"""What the records of searches tell: how far each got beyond its baselines, what it cost, and how soon it got there.

Trials are counted from 1, the baselines' and the failed or stopped ones among them. What the baselines' trials reached
does not count as the search's own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from reproducer.reporting.rows import grouped
from reproducer.stages.results import Baseline, Search

NEAR = 0.02  # of the final best: what counts as converged
PARAMETERS_7B = 6.74e9  # LLaMA-7B's
FORWARD = 2  # floating-point operations a parameter and token, as usually estimated
SPEED = 100e12  # floating-point operations a second that a GPU is taken to sustain


def rival(search: Search) -> Baseline | None:
    """The best of the baselines with a value."""
    known = [(baseline.value, i) for i, baseline in enumerate(search.baselines) if baseline.value is not None]
    return search.baselines[min(known)[1]] if known else None


def gap(search: Search) -> float | None:
    """How far, as a share of it, the search's best is below the best baseline."""
    other = rival(search)
    return None if other is None or other.value is None else 1 - search.best.value / other.value


def searches_metric(search: Search) -> bool:
    """Whether any parameter of the method's own can vary."""
    return any(
        isinstance(value, dict) or (isinstance(value, list) and len(value) > 1) for value in search.space.values()
    )


def states(search: Search) -> dict[str, int]:
    """How many trials ended in each state, in the order of their first."""
    ended = [trial.state for trial in search.trials]
    return {state: ended.count(state) for state in dict.fromkeys(ended)}


def counted(search: Search) -> int:
    """Trials that count: a failed one, whose process was killed, was made up for by another."""
    return sum(trial.state != "failed" for trial in search.trials)


class Candidate(NamedTuple):
    """The search's best or a baseline; `partial`: of a baseline that was given up, the objective so far."""

    label: str
    value: float | None
    partial: float | None


def candidates(search: Search) -> list[Candidate]:
    """From the best on; those without a value last."""
    baselines = [Candidate(base.label, base.value, base.partial) for base in search.baselines]
    every = [Candidate(search.label, search.best.value, None), *baselines]
    return sorted(every, key=lambda one: (one.value is None, one.value or one.partial or 0.0))


def importances(search: Search) -> list[tuple[list[str], float]]:
    """Parameters and their share, the largest first; numbered ones, such as the samples, together."""
    families: dict[str, list[str]] = {}
    for name in search.importances:
        families.setdefault(re.sub(r"_\d+$", "", name), []).append(name)
    summed = [
        (sorted(names, key=_number), sum(map(search.importances.__getitem__, names))) for names in families.values()
    ]
    return sorted(summed, key=lambda pair: -pair[1])


def _number(name: str) -> int:
    return int(name.rpartition("_")[2]) if re.search(r"_\d+$", name) else 0


def best_so_far(search: Search) -> list[float]:
    """After 1, 2, … trials the least value so far of the search's own; infinite before the first of these.

    A trial that is set to a baseline is none of its own.
    """
    values: dict[int, float] = {}
    for trial in search.trials:
        value = trial.value if trial.value is not None and not trial.baseline else float("inf")
        values[trial.number] = min(value, values.get(trial.number, float("inf")))
    curve: list[float] = []
    for number in range(max(values, default=-1) + 1):
        curve.append(min(values.get(number, float("inf")), curve[-1] if curve else float("inf")))
    return curve


def trials_until(curve: Sequence[float], limit: float) -> int | None:
    """After how many trials the best so far is at `limit` or below; None if never."""
    return next((count for count, value in enumerate(curve, start=1) if value <= limit), None)


def settled(search: Search) -> int | None:
    """After how many trials the best so far of its own is within `NEAR` of the final one."""
    curve = best_so_far(search)
    return trials_until(curve, (1 + NEAR) * curve[-1]) if curve and curve[-1] < float("inf") else None


def alike(searches: Sequence[Search]) -> list[list[Search]]:
    """Searches that differ in the seed alone, together."""
    return grouped(searches, lambda search: (search.label, search.model, search.ratio, search.structure_ratio))


@dataclass(frozen=True)
class Histories:
    """Searches of one model, cut and objective, by label, then by seed; each has a value of its own."""

    model: str
    ratio: float | None
    structure_ratio: float | None
    by_label: dict[str, dict[int, Search]]


def histories(searches: Sequence[Search]) -> list[Histories]:
    """Searches that differ in label, seed and settings alone, together."""

    def compared_by(search: Search) -> tuple[Any, ...]:
        objective = (*search.texts, search.settings.get("split"), search.settings.get("windows"))
        return search.model, search.ratio, search.structure_ratio, objective

    own = [search for search in searches if min(best_so_far(search), default=math.inf) < math.inf]
    return [
        Histories(
            model=group[0].model,
            ratio=group[0].ratio,
            structure_ratio=group[0].structure_ratio,
            by_label={
                of[0].label: {search.seed: search for search in of}
                for of in grouped(group, lambda search: search.label)
            },
        )
        for group in grouped(own, compared_by)
    ]
