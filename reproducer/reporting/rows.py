"""Rows brought together with pandas: seeds of one configuration into a line, lines of one cut into a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pandas import DataFrame, Series

from reproducer.reporting.numbers import form_of
from reproducer.reporting.tables import Cell, best
from reproducer.stages.results import Column, Row

CUT = ["model", "ratio", "structure_ratio", "recovery", "recovery_label"]
LINE = [*CUT, "method", "label"]
COSTS = ["params_removed", "seconds", "peak_memory_bytes", "search_objective"]
Line = Mapping[str, Any]
"""`LINE`'s fields; `rows`, one a seed; `done`, those that finished; `status`, `done` with one of them at least; `mean`
and `deviation` (the sample's, n − 1; None for one value), by metric and cost, over the finished rows or, where none
finished, over what was measured before the failure."""


def lines(rows: Sequence[Row]) -> list[Line]:
    """Rows that differ in the seed alone, together, in the order in which they first appear."""
    if not rows:
        return []
    values = DataFrame([_values(row) for row in rows], dtype=float)
    frame = DataFrame([{name: getattr(row, name) for name in [*LINE, "status"]} for row in rows], dtype=object)
    frame.loc[frame["method"] == "dense", "ratio"] = 0.0
    found: list[Line] = []
    for key, members in frame.groupby(LINE, sort=False, dropna=False):
        done = members.index[members["status"] == "done"]
        used = values.loc[done if len(done) else members.index]
        failed = (members["status"] == "failed").any()
        found.append(
            dict(zip(LINE, map(_plain, key), strict=True))
            | {
                "rows": [rows[i] for i in members.index],
                "done": [rows[i] for i in done],
                "status": "done" if len(done) else "failed" if failed else "missing",
                "mean": _known(used.mean()),
                "deviation": _known(used.std()),
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
    return series.dropna().to_dict()


def cells(block: Sequence[Line], key: str, column: Column) -> list[Cell]:
    """A column of a block: means, with their deviation over seeds; the best in bold, the dense model left out."""
    form = form_of(column)
    means = [line["mean"].get(key) for line in block]
    bold = best(
        [
            None if value is None or line["method"] == "dense" else (value, form(value))
            for value, line in zip(means, block, strict=True)
        ],
        column.higher_is_better,
    )
    return [
        Cell(_spread(line, key, form), i in bold)
        if line["mean"].get(key) is not None
        else Cell("failed" if line["status"] == "failed" and key not in COSTS else None)
        for i, line in enumerate(block)
    ]


def _spread(line: Line, key: str, form: Any) -> str:
    text, deviation = form(line["mean"][key]), line["deviation"].get(key)
    return text if deviation is None else f"{text} ± {form(deviation)}"
