"""Which differences between tuned rows a run's recovery can tell apart.

Rows of one seed draw the same samples and are tuned on the same batches in the same order, so what a seed does to all
rows of a block alike is taken out: what is left over of a layout of methods by seeds is the spread of a difference. It
is pooled over the block, as three seeds of one pair alone know next to nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Literal

import numpy as np

from reproducer.reporting.bootstrap import LEVEL, Array, Interval, holm, of_error
from reproducer.reporting.cost import seen_columns
from reproducer.reporting.rows import CUT, Line, blocks
from reproducer.reporting.runs import Run
from reproducer.stages.results import Results, Row

ENDS = 10  # steps at either end of a training whose losses are averaged, or a third of all


def ends(steps: int) -> int:
    """How many steps at either end are averaged: never so many that the two ends meet, but for a single step."""
    return max(1, min(ENDS, steps // 3))


@dataclass(frozen=True)
class Resolution:
    """What the rows of one model, cut and recovery tell apart by one measure.

    Attributes:
        measure: `perplexity`, the geometric mean of the texts, in per cent; or `accuracy`, the average, in points.
        methods, seeds: that all have it; of one seed nothing is known.
        spread: from the best of the methods to the worst.
        smallest: the difference of two of them that would have been found in four of five repetitions.
        pairs, told: of methods, and those of them whose difference is significant, after Holm.
    """

    model: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    recovery_label: str | None
    measure: Literal["perplexity", "accuracy"]
    methods: int
    seeds: tuple[int, ...]
    spread: float
    smallest: float | None
    pairs: int
    told: int


def resolutions(results: Results) -> list[list[Resolution]]:
    """Of every block of two tuned methods or more, what its rows tell apart by each measure."""
    run = Run(results)
    tuned = [line for line in run.lines if line["method"] != "dense" and line["recovery"] != "none" and line["done"]]
    return [of_block for block in blocks(tuned) if (of_block := _of_block(run, block))]


def exploratory(of_block: Sequence[Resolution]) -> bool:
    """Whether no two rows of a block are told apart by what is reported of them."""
    return not any(one.told for one in of_block)


def _of_block(run: Run, block: Sequence[Line]) -> list[Resolution]:
    perplexities = [column.key for column in seen_columns(run.results)]
    accuracies = [column.key for column in run.accuracies.get(block[0]["model"], [])]
    by_measure = [
        _resolution(block, "perplexity", lambda row: _mean(row, perplexities, math.log), _per_cent),
        _resolution(block, "accuracy", lambda row: _mean(row, accuracies, lambda value: 100 * value), float),
    ]
    return [one for one in by_measure if one is not None]


def _mean(row: Row, keys: Sequence[str], to: Callable[[float], float]) -> float | None:
    known = [to(value) for key in keys if (value := row.metrics.get(key)) is not None]
    return fmean(known) if known and len(known) == len(keys) else None


def _per_cent(logs: float) -> float:
    return 100 * math.expm1(logs)


def _resolution(
    block: Sequence[Line],
    measure: Literal["perplexity", "accuracy"],
    value: Callable[[Row], float | None],
    shown: Callable[[float], float],
) -> Resolution | None:
    """Of the methods that have the measure for the most seeds; None of fewer than two.

    Args:
        value: of a row, on a scale on which differences compare.
        shown: a difference as it is reported.
    """
    by_line = [{row.seed: known for row in line["done"] if (known := value(row)) is not None} for line in block]
    most: dict[int, float] = max(by_line, key=len)
    seeds = tuple(sorted(most))
    complete = [of for of in by_line if of.keys() >= {*seeds}]
    if not seeds or len(complete) < 2:
        return None
    table = np.array([[of[seed] for seed in seeds] for of in complete])
    means = table.mean(axis=1)
    differences = differences_of(table)
    corrected = holm([one.p for one in differences])
    return Resolution(
        **{name: block[0][name] for name in CUT},
        measure=measure,
        methods=len(complete),
        seeds=seeds,
        spread=shown(float(means.max() - means.min())),
        smallest=shown(differences[0].detectable) if differences else None,
        pairs=math.comb(len(complete), 2),
        told=sum(p is not None and p < LEVEL for p in corrected),
    )


def differences_of(table: Array) -> list[Interval]:
    """Of values [methods, seeds] the difference of each two methods; nothing of one seed."""
    methods, seeds = table.shape
    if seeds < 2:
        return []
    means = table.mean(axis=1)
    left = table - means[:, None] - table.mean(axis=0) + table.mean()
    degrees = (methods - 1) * (seeds - 1)
    error = math.sqrt(2 * float((left**2).sum()) / degrees / seeds)
    return [of_error(abs(float(a - b)), error, degrees) for a, b in combinations(means, 2)]
