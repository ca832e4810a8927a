"""What a row's plan cost to decide, in tokens through the model, and what quality that bought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reproducer.reporting.rows import Estimate, Line, blocks, by_seed, estimate, lines
from reproducer.stages.results import Column, Results

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


def tokens(line: Line) -> float | None:
    """Tokens forward and backward in forward passes; None where they were not counted."""
    mean = line.mean
    if "forward" not in mean:
        return None
    return float(mean["forward"] + BACKWARD * mean["backward"])
