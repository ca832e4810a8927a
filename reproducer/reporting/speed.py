"""Latencies of a run's rows beside those of their dense model."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from reproducer.evaluation.measured import Speed
from reproducer.reporting.gguf import Spread, spread
from reproducer.reporting.markdown import render
from reproducer.stages.results import Results, Row


@dataclass(frozen=True)
class Times:
    """Of a row: seconds of reading a prompt and of writing one token after it.

    `…_of_dense`: the median as a multiple of the dense row's; None of the dense row itself, and without one.
    """

    row: Row
    speed: Speed
    prefill: Spread
    decode: Spread
    prefill_of_dense: float | None
    decode_of_dense: float | None


def section(results: Results) -> str | None:
    """Of the report."""
    timed = times(results)
    return render("speed.j2", timed=timed, rows=results.rows) if timed else None


def times(results: Results) -> list[Times]:
    """Of every row that was timed; of rows with the same times, which tuning does not change, the first."""
    timed: dict[str, tuple[Row, Speed]] = {}
    for row in results.rows:
        if speed := row.of_kind(Speed).get("speed"):
            timed.setdefault(row.stages.get("speed", ""), (row, speed))
    dense = {row.model: speed for row, speed in timed.values() if row.method == "dense"}
    found = []
    for row, speed in timed.values():
        other = dense.get(row.model) if row.method != "dense" else None
        of_dense = [
            median(ours) / median(theirs)
            for ours, theirs in ([(speed.prefill, other.prefill), (speed.decode, other.decode)] if other else [])
        ]
        decode = spread([seconds / speed.decode_tokens for seconds in speed.decode])
        found.append(Times(row, speed, spread(speed.prefill), decode, *(of_dense or (None, None))))
    return found
