"""What the records of searches tell: how far each got beyond its baselines, what it cost, and how soon it got there.

Trials are counted from 1, the baselines' and the failed or stopped ones among them. What the baselines' trials reached
does not count as the search's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reproducer.reporting.rows import grouped
from reproducer.stages.results import Baseline, Search

NEAR = 0.02  # of the final best: what counts as converged
PARAMETERS_7B = 6.74e9  # LLaMA-7B's
FORWARD, FORWARD_BACKWARD = 2, 6  # floating-point operations a parameter and token, as usually estimated
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


@dataclass(frozen=True)
class Candidate:
    """The search's best or a baseline.

    Attributes:
        partial: of a baseline that was given up, the objective so far.
        below: how many of the `trials` with a value are better than it.
    """

    label: str
    value: float | None
    partial: float | None
    below: int
    trials: int


def candidates(search: Search) -> list[Candidate]:
    """From the best on; those without a value last."""
    values = [trial.value for trial in search.trials if trial.value is not None]
    best = [(search.label, search.best.value, None)]
    found = [*best, *((baseline.label, baseline.value, baseline.partial) for baseline in search.baselines)]
    found.sort(key=lambda one: (one[1] is None, one[1] or one[2] or 0.0))
    return [Candidate(*one, sum(one[1] is not None and x < one[1] for x in values), len(values)) for one in found]


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


def flop_7b(search: Search) -> float | None:
    """Floating-point operations that the trials' tokens would take on LLaMA-7B."""
    if search.costs is None:
        return None
    tokens = FORWARD_BACKWARD * search.costs.sample_tokens + FORWARD * search.costs.text_tokens
    return float(tokens * PARAMETERS_7B)


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
    return grouped(searches, lambda one: (one.label, one.model, one.ratio, one.structure_ratio))


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

    own = [one for one in searches if any(trial.value is not None and not trial.baseline for trial in one.trials)]
    return [
        Histories(
            model=group[0].model,
            ratio=group[0].ratio,
            structure_ratio=group[0].structure_ratio,
            by_label={of[0].label: {one.seed: one for one in of} for of in grouped(group, lambda one: one.label)},
        )
        for group in grouped(own, compared_by)
    ]
