"""The controls of a report, and the paper's own method held against them."""

from __future__ import annotations

from dataclasses import dataclass

from reproducer.paper import method
from reproducer.reporting.bootstrap import Interval, interval
from reproducer.reporting.cost import seen_columns, unseen_columns
from reproducer.reporting.rows import Line, blocks, lines
from reproducer.reporting.rules.effects import log_ratio, mapped, percent_change
from reproducer.reporting.runs import Run
from reproducer.stages.results import Results, Row


def controls(results: Results) -> list[str]:
    """The controls that the report has rows or columns of."""
    named = dict.fromkeys(row.control for row in results.rows if row.control)
    return [*named, *(["unseen-text"] if unseen_columns(results) else [])]


def control_rows(results: Results) -> list[Row]:
    """The rows that the controls are about: of a document, those of its parts that have controls; else all."""
    parts = [part for part in results.parts if part.spec.get("controls")]
    places = sorted({place for part in parts for place in part.rows})
    return [results.rows[place] for place in places] if parts else list(results.rows)


@dataclass(frozen=True)
class ControlEffect:
    """The mean perplexity of the paper's method against another row's, on the seeds of both.

    Attributes:
        own, other: untuned lines of one model and cut.
        effect: by how many per cent the paper's method is above the other; below 0 it is the better one.
        informed: the other is a control, or was calibrated on the texts that the search measures on.
    """

    own: Line
    other: Line
    seeds: tuple[int, ...]
    effect: Interval
    informed: bool


def control_effects(results: Results) -> list[ControlEffect]:
    """Of all rows that the controls are about, where the paper's method and they have two seeds in common."""
    run, columns, found = Run(results), seen_columns(results), []
    for block in blocks(lines(control_rows(results))):
        own = next((line for line in block if (line.method, line.label) == (method().name, method().label)), None)
        for other in block if own is not None and own.recovery == "none" else []:
            measured = run.pair(own, other, columns) if own and other is not own else None
            if own is None or measured is None or len(measured.seeds) < 2 or other.method == "dense":
                continue
            effect = mapped(interval(measured.pairs, log_ratio), percent_change, lower=True)
            found.append(ControlEffect(own, other, measured.seeds, effect, _informed(other)))
    return found


def _informed(line: Line) -> bool:
    row = line.rows[0]
    return row.control is not None or any(one.purpose == "calibration" and one.split == "search" for one in row.saw)
