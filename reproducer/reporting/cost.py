"""What a row's plan cost to decide, in tokens through the model, and what quality that bought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from reproducer.reporting.numbers import plus_minus
from reproducer.reporting.rows import Estimate, Line, blocks, by_seed, estimate, lines
from reproducer.reporting.searches import FORWARD, PARAMETERS_7B, SPEED
from reproducer.stages.results import Column, Results, Sight

EVEN = 0.005  # by which rows of one ratio may differ in what they lost
BACKWARD = 2  # forward passes that a backward pass costs


@dataclass(frozen=True)
class Point:
    """A line of a block with its cost and its quality.

    Attributes:
        cost: tokens forward and, twice as dear, backward; the mean over seeds.
        quality, half: the mean perplexity of the texts that the report measures on, and half the width of its interval.
        best: no other line is both cheaper and better.
    """

    line: Line
    cost: float
    quality: float
    half: float | None
    best: bool


def seen_columns(results: Results) -> list[Column]:
    """The perplexities that a search may have gone by."""
    return [column for column in results.columns if column.kind == "perplexity" and not column.unseen]


def unseen_columns(results: Results) -> list[Column]:
    return [column for column in results.columns if column.unseen]


def mean_of(line: Line, columns: Sequence[Column]) -> Estimate | None:
    """The mean of some columns over the seeds that have them all; None without one."""
    return estimate([*by_seed(line, [column.key for column in columns]).values()])


def mean_cell(line: Line, columns: Sequence[Column]) -> str | None:
    """The mean of some columns as it reads, with its interval over seeds."""
    known = mean_of(line, columns)
    return None if known is None else plus_minus(known.mean, known.half)


def objective_cell(line: Line) -> str | None:
    """The objective of the search behind a line as it reads."""
    known = estimate([*by_seed(line, ["search_objective"]).values()])
    return None if known is None else plus_minus(known.mean, known.half)


def fronts(results: Results) -> list[list[Point]]:
    """Of every block of untuned rows its points, where three or more are known; the cheapest first."""
    columns = seen_columns(results)
    found = []
    for block in blocks(lines(results.rows)):
        known = []
        for line in block if block[0].recovery == "none" else []:
            cost, quality = tokens(line), mean_of(line, columns)
            if line.method != "dense" and cost is not None and quality is not None:
                known.append((line, cost, quality))
        if len(known) >= 3:
            known.sort(key=lambda one: (one[1], one[2].mean))
            found.append(
                [
                    Point(line, cost, one.mean, one.half, all(one.mean < other.mean for *_, other in known[:place]))
                    for place, (line, cost, one) in enumerate(known)
                ]
            )
    return found


def uneven(block: Sequence[Line]) -> list[Line]:
    """Lines of a block that lost another share of the parameters than most; none where all are within half a point."""
    shares = {line.label: share for line in block if (share := line.mean.get("params_removed"))}
    if not shares or max(shares.values()) - min(shares.values()) < EVEN:
        return []
    usual = median(shares.values())
    return [line for line in block if abs(shares.get(line.label, usual) - usual) >= EVEN / 2]


def tokens(line: Line) -> float | None:
    """Tokens forward and backward in forward passes; None where they were not counted."""
    mean = line.mean
    if "forward" not in mean:
        return None
    return float(mean["forward"] + BACKWARD * mean["backward"])


@dataclass(frozen=True)
class WholeCost:
    """What a line took before it was measured, in seconds; None: not known, of a recovery: there was none.

    Attributes:
        deciding, recovery: here, the mean over seeds.
        at_7b: that deciding would take on a GPU for the tokens that it took here, the model being LLaMA-7B.
    """

    line: Line
    deciding: float
    recovery: float | None
    at_7b: float | None


def whole_costs(results: Results) -> list[WholeCost]:
    """Of each method of a model and cut, its recoveries if it has any, else untuned; where times are known.

    Of a document those of its first part, for which what the method takes is the argument.
    """
    found = []
    rows = results.of_part(results.parts[0]).rows if results.parts else results.rows
    known = [line for line in lines(rows) if line.method != "dense" and "deciding_seconds" in line.mean]
    tuned = {_method(line) for line in known if "recovery_seconds" in line.mean}
    for line in known:
        if _method(line) not in tuned if line.recovery == "none" else "recovery_seconds" in line.mean:
            mean, spent = line.mean, tokens(line)
            found.append(
                WholeCost(
                    line,
                    mean["deciding_seconds"],
                    mean.get("recovery_seconds"),
                    None if spent is None else seconds_7b(spent),
                )
            )
    return found


def _method(line: Line) -> tuple[object, ...]:
    return tuple(line[name] for name in ("model", "ratio", "structure_ratio", "label"))


def seconds_7b(spent: float) -> float:
    """On a GPU, of so many tokens through LLaMA-7B forward (a backward pass counts as two)."""
    return FORWARD * PARAMETERS_7B * spent / SPEED


def sights(line: Line, purpose: str) -> list[Sight]:
    """The texts that a line's rows saw for this."""
    return [sight for sight in line.rows[0].saw if sight.purpose == purpose]
