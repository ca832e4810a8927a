"""Rows brought together with pandas: seeds of one configuration into a line, lines of one cut into a block."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev
from typing import Any

from pandas import DataFrame, Series

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
Line = Mapping[str, Any]
"""`LINE`'s fields; `rows`, one a seed; `measured`, whether any has a metric; `done`, those that finished; `status`,
`done` with one of them at least; `mean` and `deviation` (the sample's, n − 1; None for one value), by metric and cost,
over the finished rows or, where none finished, over what was measured before the failure, to twelve digits."""


def lines(rows: Sequence[Row]) -> list[Line]:
    """Rows that differ in the seed alone, together, in the order in which they first appear."""
    return list(_lines(_These(tuple(rows)))) if rows else []


@dataclass(frozen=True, eq=False)
class _These:
    """The very same rows, for a cache; nothing changes a row."""

    rows: tuple[Row, ...]

    def __hash__(self) -> int:
        return hash(tuple(map(id, self.rows)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _These) or len(self.rows) != len(other.rows):
            return False
        return all(map(operator.is_, self.rows, other.rows))


@lru_cache(maxsize=32)  # every part of a report asks for its rows' lines
def _lines(these: _These) -> list[Line]:
    rows = these.rows
    values = DataFrame([_values(row) for row in rows], dtype=float)
    frame = DataFrame([{name: getattr(row, name) for name in [*LINE, "status"]} for row in rows], dtype=object)
    frame.loc[frame["method"] == "dense", "ratio"] = 0.0
    of_line, done = frame.groupby(LINE, sort=False, dropna=False).ngroup(), frame["status"] == "done"
    used = done | ~done.groupby(of_line).transform("any")
    counted = values[used].groupby(of_line[used])  # all lines at once: a group alone costs pandas a millisecond
    means, deviations = counted.mean(), counted.std()
    found: list[Line] = []
    for number, members in of_line.groupby(of_line).indices.items():
        finished = [rows[i] for i in members if done[i]]
        failed = any(rows[i].status == "failed" for i in members)
        found.append(
            {name: _plain(frame.at[members[0], name]) for name in LINE}
            | {
                "rows": [rows[i] for i in members],
                "done": finished,
                "measured": any(rows[i].measured for i in members),
                "status": "done" if finished else "failed" if failed else "missing",
                "mean": _known(means.loc[number]),
                "deviation": _known(deviations.loc[number]),
            }
        )
    return found


def _values(row: Row) -> dict[str, Any]:
    spent = row.tokens.model_dump() if row.tokens else {}
    return {name: getattr(row, name) for name in COSTS} | spent | row.metrics


def blocks(found: Sequence[Line], keys: Sequence[str] = CUT) -> list[list[Line]]:
    """The lines with the same `keys` together, in the order in which they first appear."""
    grouped: dict[tuple, list[Line]] = {}
    for line in found:
        grouped.setdefault(tuple(line[key] for key in keys), []).append(line)
    return list(grouped.values())


def _plain(value: Any) -> Any:
    return None if value != value else value  # pandas tells a missing key by NaN


def _known(series: Series) -> dict[str, float]:
    # to twelve digits: equal means are ties, for ranks and orders, in whatever order their values were added
    return {name: float(f"{value:.12g}") for name, value in series.dropna().items()}


@dataclass(frozen=True)
class Estimate:
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
    degrees = len(values) - 1
    error = stdev(values) / math.sqrt(len(values))
    return Estimate(fmean(values), float(student.ppf((1 + CONFIDENCE) / 2, degrees)) * error)


def by_seed(line: Line, keys: Sequence[str]) -> dict[int, float]:
    """The mean of the metrics `keys` by seed, of the seeds that have them all.

    Of the finished rows or, where none finished, of what was measured before the failure.
    """
    found = {}
    for row in line["done"] or line["rows"]:
        values = [_values(row).get(key) for key in keys]
        known = [value for value in values if value is not None]
        if known and len(known) == len(values):
            found[row.seed] = fmean(known)
    return found


def with_results(found: Sequence[Line]) -> list[Line]:
    """The lines that tables have: those that measure anything or failed; of a run that has none yet, all."""
    return [line for line in found if line["measured"] or line["status"] == "failed"] or list(found)


def measuring(found: Sequence[Line], keys: Sequence[str]) -> list[Line]:
    """The lines that measure one of `keys`, or were to; in a document every line has the columns of all its specs."""
    return [line for line in found if any(not row.metrics or {*keys} & row.metrics.keys() for row in line["rows"])]


def leaders(block: Sequence[Line], keys: Sequence[str], higher_is_better: bool) -> list[int]:
    """The place of a block's best line, then of those that cannot be told from it; the dense model left out.

    Two lines cannot be told apart where the interval of their difference, paired by seed, holds 0. None is named where
    there is one line alone, or where the best has a single seed.
    """
    values = {i: by_seed(line, keys) for i, line in enumerate(block) if line["method"] != "dense"}
    means = {i: fmean(of.values()) for i, of in values.items() if of}
    if len(means) < 2:
        return []
    first = (max if higher_is_better else min)(means, key=means.__getitem__)
    if len(values[first]) < 2:
        return []
    found = [first]
    for i in means.keys() - {first}:
        both = values[i].keys() & values[first].keys()
        gap = estimate([values[i][seed] - values[first][seed] for seed in sorted(both)])
        if gap is not None and gap.half is not None and abs(gap.mean) <= gap.half:
            found.append(i)
    return found


def cells(block: Sequence[Line], key: str, column: Column) -> list[Cell]:
    """A column of a block: means with their intervals over seeds.

    The best is bold, and what cannot be told from it has a sign of it.
    """
    ahead = leaders(block, [key], column.higher_is_better)
    found = []
    for i, line in enumerate(block):
        known = estimate([*by_seed(line, [key]).values()])
        if known is None:
            found.append(Cell("failed" if line["status"] == "failed" and key not in COSTS else None))
        else:
            text = with_interval(known.mean, known.half, column)
            found.append(Cell(f"{text} ≈" if i in ahead[1:] else text, i in ahead[:1], known.mean))
    return found
