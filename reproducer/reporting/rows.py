"""Rows brought together: seeds of one configuration into a line, lines of one cut into a block."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple, TypeVar

from reproducer.reporting.bootstrap import LEVEL
from reproducer.reporting.numbers import with_interval
from reproducer.reporting.tables import Cell
from reproducer.stages.results import Column, Row

CONFIDENCE = 1 - LEVEL  # of intervals
CUT = ["model", "ratio", "structure_ratio", "recovery", "recovery_label"]
LINE = [*CUT, "method", "label"]
COSTS = ["params", "params_removed", "seconds", "peak_memory_bytes", "search_objective"]
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Line:
    """A row without its seed.

    Attributes:
        rows: one a seed.
        mean: by metric and cost, over the finished rows or, where none finished, over what was measured before the
            failure.
    """

    model: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    recovery_label: str | None
    method: str
    label: str
    rows: list[Row]
    mean: dict[str, float]

    @property
    def done(self) -> list[Row]:
        """The rows that finished."""
        return [row for row in self.rows if row.status == "done"]

    @property
    def measured(self) -> bool:
        """Whether any row has a metric."""
        return any(row.has_metrics for row in self.rows)

    @property
    def status(self) -> Literal["done", "failed", "missing"]:
        """`done` with one finished row at least."""
        if self.done:
            return "done"
        return "failed" if any(row.status == "failed" for row in self.rows) else "missing"


def grouped(things: Iterable[Thing], key: Callable[[Thing], Hashable]) -> list[list[Thing]]:
    """The things with the same key together, in the order in which they first appear."""
    groups: dict[Hashable, list[Thing]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return list(groups.values())


def lines(rows: Iterable[Row]) -> list[Line]:
    """Rows that differ in the seed alone, together, in the order in which they first appear."""
    groups = grouped(rows, lambda row: tuple(_identity(row).values()))
    return [Line(**_identity(group[0]), rows=group, mean=_means(group)) for group in groups]


def _identity(row: Row) -> dict[str, Any]:
    identity = {name: getattr(row, name) for name in LINE}
    return identity | {"ratio": 0.0} if row.method == "dense" else identity


def _means(rows: Sequence[Row]) -> dict[str, float]:
    known: dict[str, list[float]] = {}
    for row in [row for row in rows if row.status == "done"] or rows:
        for name, value in values(row).items():
            if value is not None:
                known.setdefault(name, []).append(value)
    # to twelve digits, so that equal means are ties in whatever order their values were added
    return {name: float(f"{fmean(of):.12g}") for name, of in known.items()}


def values(row: Row) -> dict[str, Any]:
    """Metrics and costs of a row by name."""
    tokens = row.tokens.model_dump() if row.tokens else {}
    return {name: getattr(row, name) for name in COSTS} | tokens | row.metrics


def blocks(lines: Iterable[Thing], keys: Sequence[str] = CUT) -> list[list[Thing]]:
    """Lines, or rows of a comparison, with the same `keys` together, in the order in which they first appear."""
    return grouped(lines, lambda line: tuple(getattr(line, key) for key in keys))


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
    for row in line.done or line.rows:
        known = [value for key in keys if (value := values(row).get(key)) is not None]
        if known and len(known) == len(keys):
            means[row.seed] = fmean(known)
    return means


def with_results(block: Sequence[Line]) -> list[Line]:
    """The lines that tables have: those that measure anything or failed; of a run that has none yet, all."""
    return [line for line in block if line.measured or line.status == "failed"] or list(block)


def measuring(block: Sequence[Line], keys: Sequence[str]) -> list[Line]:
    """The lines that measure one of `keys`, or were to; in a document every line has the columns of all its specs."""
    return [line for line in block if any(not row.metrics or {*keys} & row.metrics.keys() for row in line.rows)]


def leaders(block: Sequence[Line], keys: Sequence[str], higher_is_better: bool) -> list[int]:
    """The index of a block's best line, then of those that cannot be told from it; the dense model left out.

    Two lines cannot be told apart where the interval of their difference, paired by seed, holds 0. None is named where
    there is one line alone, or where the best has a single seed.
    """
    seeds = {i: of for i, line in enumerate(block) if line.method != "dense" and (of := by_seed(line, keys))}
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
            column_cells.append(Cell("failed" if line.status == "failed" and key not in COSTS else None))
        else:
            text = with_interval(known.mean, known.half, column)
            column_cells.append(Cell(f"{text} ≈" if i in ahead[1:] else text, i in ahead[:1]))
    return column_cells
