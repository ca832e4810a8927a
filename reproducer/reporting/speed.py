"""Latencies of a run's rows beside those of their dense model."""

from __future__ import annotations

from dataclasses import dataclass

from reproducer.evaluation.measured import Speed
from reproducer.reporting.gguf import spread
from reproducer.reporting.markdown import render
from reproducer.stages.results import Results, Row

Range = tuple[float, float, float]  # the median, and the two ends


@dataclass(frozen=True)
class Times:
    """Of a row: seconds of reading a prompt and of writing one token after it, first to third quartile.

    Attributes:
        prefill_of_dense, decode_of_dense: as multiples of the dense row's median, from the least to the greatest that
            the quartiles of the two allow; None of the dense row itself, and without one.
    """

    row: Row
    found: Speed
    prefill: Range
    decode: Range
    prefill_of_dense: Range | None
    decode_of_dense: Range | None


def section(results: Results) -> str | None:
    """Of the report."""
    timed = times(results)
    return render("speed.j2", timed=timed, rows=results.rows) if timed else None


def times(results: Results) -> list[Times]:
    """Of every row that was timed; of rows with the same times, which tuning does not change, the first."""
    found: list[Times] = []
    seen = set()
    for row in results.rows:
        speed = row.of_kind(Speed).get("speed")
        if speed is None or row.stages.get("speed") in seen:
            continue
        seen.add(row.stages.get("speed"))
        prefill, decode = _ranges(speed)
        dense_rows = (other for other in results.rows if (other.model, other.method) == (row.model, "dense"))
        dense = next((other.of_kind(Speed).get("speed") for other in dense_rows), None)
        against = None if dense is None or row.method == "dense" else _ranges(dense)
        relative = (_over(prefill, against[0]), _over(decode, against[1])) if against else (None, None)
        found.append(Times(row, speed, prefill, decode, *relative))
    return found


def _ranges(speed: Speed) -> tuple[Range, Range]:
    return spread(speed.prefill), spread([seconds / speed.decode_tokens for seconds in speed.decode])


def _over(one: Range, other: Range) -> Range:
    return one[0] / other[0], one[1] / other[2], one[2] / other[1]
