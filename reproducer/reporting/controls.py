"""The controls of a report, and the paper's own method held against them."""

from __future__ import annotations

from dataclasses import dataclass

from reproducer.paper.catalogue import method
from reproducer.reporting.bootstrap import Interval, interval
from reproducer.reporting.cost import mean_of, seen_columns, unseen_columns
from reproducer.reporting.rows import Estimate, Line, blocks, by_seed, estimate, lines, with_results
from reproducer.reporting.rules.effects import log_ratio, mapped, percent_change
from reproducer.reporting.runs import Run
from reproducer.stages.results import Column, Results, Row


@dataclass(frozen=True)
class ControlLine:
    """An untuned line beside the paper's own method.

    Attributes:
        effect: by how many per cent the perplexity of the paper's method is above its own, on `seeds` seeds of both;
            None without two seeds in common, and of the paper's own line.
        informed: it is a control, or was calibrated on the texts that the search measures on.
    """

    line: Line
    mean: Estimate | None
    unseen: Estimate | None
    objective: Estimate | None
    effect: Interval | None
    seeds: int
    informed: bool


def controls(results: Results) -> list[str]:
    """The controls that the report has rows or columns of."""
    named = dict.fromkeys(row.control for row in results.rows if row.control)
    return [*named, *(["unseen-text"] if unseen_columns(results) else [])]


def control_rows(results: Results) -> list[Row]:
    """The rows that the controls are about: of a document, those of its parts that have controls; else all."""
    parts = [part for part in results.parts if part.spec.get("controls")]
    places = sorted({place for part in parts for place in part.rows})
    return [results.rows[place] for place in places] if parts else list(results.rows)


def control_blocks(results: Results) -> list[list[ControlLine]]:
    """The untuned lines that the controls are about, by cut; none of a run without controls."""
    run, seen, unseen = Run(results), seen_columns(results), unseen_columns(results)
    found = []
    for block in blocks(with_results(lines(control_rows(results)))) if controls(results) else []:
        own = next((line for line in block if (line.method, line.label) == (method().name, method().label)), None)
        cut = [line for line in block if line.method != "dense" and line.recovery == "none"]
        found.append([_control_line(run, own, line, seen, unseen) for line in cut])
    return [block for block in found if block]


def _control_line(run: Run, own: Line | None, line: Line, seen: list[Column], unseen: list[Column]) -> ControlLine:
    scores = run.pair(own, line, seen) if own is not None and own is not line else None
    known = scores is not None and len(scores.seeds) > 1
    return ControlLine(
        line,
        mean_of(line, seen),
        mean_of(line, unseen),
        estimate([*by_seed(line, ["search_objective"]).values()]),
        effect=mapped(interval(scores.pairs, log_ratio), percent_change, lower=True) if scores and known else None,
        seeds=len(scores.seeds) if scores else 0,
        informed=_informed(line),
    )


def _informed(line: Line) -> bool:
    row = line.rows[0]
    return row.control is not None or any(one.purpose == "calibration" and one.split == "search" for one in row.saw)
