"""What a run measured of its rows in llama.cpp, laid out for a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from reproducer.evaluation.measured import Gguf
from reproducer.reporting.markdown import render
from reproducer.stages.results import Results, Row

Spread = tuple[float, float, float]
"""A median, and the first and third quartile."""


@dataclass(frozen=True)
class File:
    """A row as a file of one type.

    Attributes:
        text: the label of the text behind the perplexities.
        here: this program's own perplexity over the same windows; None where it did not measure the text.
        size: a multiple of the first file's of the model's dense row; None without one.
        unbeaten: no other file of the model is at most as large and at most as perplexed, and less in one of the two.
    """

    row: Row
    gguf: Gguf
    text: str
    here: float | None
    size: float | None
    unbeaten: bool
    prefill: Spread
    decode: Spread


def section(results: Results) -> str | None:
    """Of the report."""
    deployed = files(results)
    return render("gguf.j2", deployed=deployed, rows=results.rows) if deployed else None


def files(results: Results) -> list[File]:
    """All files, row by row, each row's in the order in which the spec names their types."""
    columns = {column.source: column for column in results.columns if column.kind == "perplexity"}
    found = []
    for row in results.rows:
        others = [other for other in results.rows if other.model == row.model]
        same = [one for other in others for one in other.of_kind(Gguf).values()]
        dense = [one.bytes for other in others if other.method == "dense" for one in other.of_kind(Gguf).values()]
        for one in row.of_kind(Gguf).values():
            column = columns.get(one.text)
            losses = row.window_losses.get(column.key, [])[: one.windows] if column else []
            found.append(
                File(
                    row,
                    one,
                    text=column.label if column else one.text,
                    here=math.exp(fmean(losses)) if len(losses) == one.windows else None,
                    size=one.bytes / dense[0] if dense else None,
                    unbeaten=not any(_beats(other, one) for other in same),
                    prefill=spread(one.prefill),
                    decode=spread(one.decode),
                )
            )
    return found


def spread(values: Sequence[float]) -> Spread:
    if len(values) < 2:
        return values[0], values[0], values[0]
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return median, first, third


def _beats(one: Gguf, other: Gguf) -> bool:
    smaller, better = one.bytes - other.bytes, one.perplexity - other.perplexity
    return smaller <= 0 and better <= 0 and (smaller < 0 or better < 0)
