"""Rows brought together: seeds of one configuration into a line, lines of one cut into a block."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple, TypeVar

from reproducer.reporting.bootstrap import LEVEL
from reproducer.reporting.numbers import with_interval
from reproducer.reporting.tables import Cell
from reproducer.stages.results import Column, Row

CONFIDENCE = 1 - LEVEL  # of intervals
CUT = ["model", "ratio", "structure_ratio", "recovery", "recovery_label"]
LINE = [*CUT, "method", "label"]
COSTS = [
    "params_removed", "seconds", "deciding_seconds", "recovery_seconds", "peak_memory_bytes", "search_objective",
]  # fmt: skip
Thing = TypeVar("Thing")
Line = Mapping[str, Any]
"""A row without its seed: `LINE`'s fields; `rows`, one a seed; `measured`, whether any has a metric; `done`, those
that finished; `status`, `done` with one of them at least; `mean`, by metric and cost, over the finished rows or, where
none finished, over what was measured before the failure."""


def grouped(things: Iterable[Thing], key: Callable[[Thing], Hashable]) -> list[list[Thing]]:
    """The things with the same key together, in the order in which they first appear."""
    groups: dict[Hashable, list[Thing]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return list(groups.values())


def lines(rows: Iterable[Row]) -> list[Line]:
    """Rows that differ in the seed alone, together, in the order in which they first appear."""
    return [_line(group) for group in grouped(rows, lambda row: tuple(_identity(row).values()))]


def _identity(row: Row) -> dict[str, Any]:
    identity = {name: getattr(row, name) for name in LINE}
    return identity | {"ratio": 0.0} if row.method == "dense" else identity


def _line(rows: list[Row]) -> Line:
    done = [row for row in rows if row.status == "done"]
    failed = any(row.status == "failed" for row in rows)
    return _identity(rows[0]) | {
        "rows": rows,
        "done": done,
        "measured": any(row.has_metrics for row in rows),
        "status": "done" if done else "failed" if failed else "missing",
        "mean": _means(done or rows),
    }


def _means(rows: Sequence[Row]) -> dict[str, float]:
    known: dict[str, list[float]] = {}
    for row in rows:
        for name, value in values(row).items():
            if value is not None:
                known.setdefault(name, []).append(value)
    # to twelve digits, so that equal means are ties in whatever order their values were added
    return {name: float(f"{fmean(of):.12g}") for name, of in known.items()}


def values(row: Row) -> dict[str, Any]:
    """Metrics and costs of a row by name."""
    tokens = row.tokens.model_dump() if row.tokens else {}
    return {name: getattr(row, name) for name in COSTS} | tokens | row.metrics


def blocks(found: Iterable[Line], keys: Sequence[str] = CUT) -> list[list[Line]]:
    """The lines with the same `keys` together, in the order in which they first appear."""
    return grouped(found, lambda line: tuple(line[key] for key in keys))


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: of the seeds' values.
        half: half the width of its `CONFIDENCE` interval, Student's t over seeds; None of a single one.
    """

    mean: float
    half: float | None


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean of one value a seed, with its interval; None without values."""
    from scipy.stats import t as student

    if not values:
        return None
    if len(values) == 1:
        return Estimate(values[0], None)
    error = stdev(values) / math.sqrt(len(values))
    return Estimate(fmean(values), float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error)


def by_seed(line: Line, keys: Sequence[str]) -> dict[int, float]:
    """The mean of the metrics `keys` by seed, of the seeds that have them all.

    Of the finished rows or, where none finished, of what was measured before the failure.
    """
    means = {}
    for row in line["done"] or line["rows"]:
        known = [value for key in keys if (value := values(row).get(key)) is not None]
        if known and len(known) == len(keys):
            means[row.seed] = fmean(known)
    return means


def with_results(found: Sequence[Line]) -> list[Line]:
    """The lines that tables have: those that measure anything or failed; of a run that has none yet, all."""
    return [line for line in found if line["measured"] or line["status"] == "failed"] or list(found)


def measuring(found: Sequence[Line], keys: Sequence[str]) -> list[Line]:
    """The lines that measure one of `keys`, or were to; in a document every line has the columns of all its specs."""
    return [line for line in found if any(not row.metrics or {*keys} & row.metrics.keys() for row in line["rows"])]


def leaders(block: Sequence[Line], keys: Sequence[str], higher_is_better: bool) -> list[int]:
    """The index of a block's best line, then of those that cannot be told from it; the dense model left out.

    Two lines cannot be told apart where the interval of their difference, paired by seed, holds 0. None is named where
    there is one line alone, or where the best has a single seed.
    """
    seeds = {i: of for i, line in enumerate(block) if line["method"] != "dense" and (of := by_seed(line, keys))}
    if len(seeds) < 2:
        return []
    first = (max if higher_is_better else min)(seeds, key=lambda i: fmean(seeds[i].values()))
    if len(seeds[first]) < 2:
        return []
    return [first, *(i for i in seeds if i != first and not _differ(seeds[i], seeds[first]))]


def _differ(ours: Mapping[int, float], theirs: Mapping[int, float]) -> bool:
    gap = estimate([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
    return gap is None or gap.half is None or abs(gap.mean) > gap.half


def cells(block: Sequence[Line], key: str, column: Column) -> list[Cell]:
    """A column of a block: means with their intervals over seeds.

    The best is bold, and what cannot be told from it has a sign of it.
    """
    ahead = leaders(block, [key], column.higher_is_better)
    column_cells = []
    for i, line in enumerate(block):
        known = estimate([*by_seed(line, [key]).values()])
        if known is None:
            column_cells.append(Cell("failed" if line["status"] == "failed" and key not in COSTS else None))
        else:
            text = with_interval(known.mean, known.half, column)
            column_cells.append(Cell(f"{text} ≈" if i in ahead[1:] else text, i in ahead[:1], known.mean))
    return column_cells
