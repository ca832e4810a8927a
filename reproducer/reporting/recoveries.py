"""Which differences between tuned rows a run's recovery can tell, and what it would take to tell the paper's.

Rows of one seed draw the same samples and are tuned on the same batches in the same order, so what a seed does to all
rows of a block alike is taken out: what is left over of a layout of methods by seeds is the spread of a difference. It
is pooled over the block, as three seeds of one pair alone know next to nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Literal

import numpy as np

from reproducer.paper import PaperRow, items, load_item, method
from reproducer.reporting.bootstrap import LEVEL, Array, holm, of_error
from reproducer.reporting.comparison import is_row, plain
from reproducer.reporting.cost import seen_columns
from reproducer.reporting.rows import CUT, Line, blocks
from reproducer.reporting.runs import Run
from reproducer.stages.results import Results, Row

Measure = Literal["loss", "perplexity", "accuracy"]
ENDS = 10  # steps whose losses are averaged, or a third of all
PARTS = 4  # of a recovery's steps, at the end of each of which losses are looked at
MOST = 100  # seeds, beyond which it does not matter how many more it would take


@dataclass(frozen=True)
class Resolution:
    """What the rows of one model, cut and recovery tell apart by one measure.

    Attributes:
        measure: `loss`, in nats, the mean over `steps`, first and last, of the training; `perplexity`, the geometric
            mean of the texts, in per cent; or `accuracy`, the average, in points.
        methods, seeds: that all have it; of one seed nothing is known.
        spread: from the best of the methods to the worst.
        smallest: the difference of two of them that would have been found in four of five repetitions.
        pairs, told: of methods, and those of them whose difference is significant, after Holm.
        paper: how far the paper's own method is ahead of the best other of these methods in the paper; None: unprinted.
        needed: seeds with which that would be found in four of five repetitions; None: more than `MOST`, or no `paper`.
    """

    model: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    recovery_label: str | None
    measure: Measure
    steps: tuple[int, int] | None
    methods: int
    seeds: tuple[int, ...]
    spread: float
    smallest: float | None
    pairs: int
    told: int
    paper: float | None
    needed: int | None


@dataclass(frozen=True)
class Recovered:
    """A block of tuned rows.

    Attributes:
        losses: at the end of each part of the training. measures: of the tuned models.
    """

    losses: list[Resolution]
    measures: list[Resolution]

    @property
    def place(self) -> Resolution:
        """What says which block it is."""
        return (self.measures or self.losses)[0]

    @property
    def exploratory(self) -> bool:
        """Whether no two of its rows are told apart by what is reported of them."""
        return not any(one.told for one in self.measures or self.losses[-1:])

    @property
    def gains(self) -> bool | None:
        """Whether later steps tell more than earlier ones; None where there is no saying."""
        known = [one.spread / one.smallest for one in self.losses if one.smallest]
        return known[-1] > known[0] if len(known) > 1 else None


def recovered(results: Results) -> list[Recovered]:
    """The blocks of two tuned methods or more that have something to tell apart."""
    run, found = Run(results), []
    for block in blocks(run.lines):
        tuned = [line for line in block if line["method"] != "dense" and line["recovery"] != "none" and line["done"]]
        made = Recovered(_losses(tuned), _measures(run, tuned))
        if made.losses or made.measures:
            found.append(made)
    return found


def ends(steps: int) -> int:
    """How many steps at either end are averaged: never so many that the two ends meet, but for a single step."""
    return max(1, min(ENDS, steps // 3))


def _losses(block: Sequence[Line]) -> list[Resolution]:
    counts = [len(row.training) for line in block for row in line["done"] if row.training]
    steps = max(counts, default=0)
    found = []
    for last in sorted({math.ceil(part * steps / PARTS) for part in range(1, PARTS + 1)} if steps else ()):
        first = max(1, last - ends(steps) + 1)

        def loss(row: Row, first: int = first, last: int = last) -> float | None:
            losses = row.training or []
            return fmean(one.loss for one in losses[first - 1 : last]) if len(losses) == steps else None

        if told := _resolution(block, "loss", loss, steps=(first, last)):
            found.append(told)
    return found


def _measures(run: Run, block: Sequence[Line]) -> list[Resolution]:
    if not block:
        return []
    perplexities = [column.key for column in seen_columns(run.results)]
    accuracies = [column.key for column in run.accuracies.get(block[0]["model"], [])]

    def log_perplexity(metrics: Mapping[str, float | None]) -> float | None:
        return _mean(metrics, perplexities, math.log)

    def accuracy(metrics: Mapping[str, float | None]) -> float | None:
        return _mean(metrics, accuracies, lambda value: 100 * value)

    printed = _printed(run, block)
    leads = {
        "perplexity": _lead(printed, log_perplexity, -1),
        "accuracy": _lead(printed, lambda metrics: metrics.get("average_acc"), 1),
    }
    told = [
        _resolution(block, "perplexity", lambda row: log_perplexity(row.metrics), leads["perplexity"], _per_cent),
        _resolution(block, "accuracy", lambda row: accuracy(row.metrics), leads["accuracy"]),
    ]
    return [one for one in told if one is not None]


def _mean(metrics: Mapping[str, float | None], keys: Sequence[str], to: Callable[[float], float]) -> float | None:
    values = [metrics.get(key) for key in keys]
    known = [to(value) for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _per_cent(logs: float) -> float:
    return 100 * math.expm1(logs)


def _resolution(
    block: Sequence[Line],
    measure: Measure,
    value: Callable[[Row], float | None],
    paper: float | None = None,
    shown: Callable[[float], float] = float,
    steps: tuple[int, int] | None = None,
) -> Resolution | None:
    """Of the methods that have the measure for the most seeds; None of fewer than two.

    Args:
        value: of a row, on a scale on which differences compare. paper: a difference on it.
        shown: a difference as it is reported.
    """
    by_line = [{row.seed: known for row in line["done"] if (known := value(row)) is not None} for line in block]
    seeds = tuple(sorted(max((of.keys() for of in by_line), key=len, default={})))
    whole = [of for of in by_line if of.keys() >= {*seeds}]
    if not seeds or len(whole) < 2:
        return None
    table = np.array([[of[seed] for seed in seeds] for of in whole])
    means = table.mean(axis=1)
    error = _error(table)
    pairs = [abs(float(a - b)) for a, b in combinations(means, 2)]
    apart = [of_error(pair, error(len(seeds)), degrees(table.shape, len(seeds))) for pair in pairs] if error else []
    corrected = holm([one.p for one in apart])
    lead = None if paper is None else abs(paper)  # what it takes does not depend on who is ahead
    return Resolution(
        **{name: block[0][name] for name in CUT},
        measure=measure,
        steps=steps,
        methods=len(whole),
        seeds=seeds,
        spread=shown(float(means.max() - means.min())),
        smallest=shown(apart[0].detectable) if apart else None,
        pairs=len(pairs),
        told=sum(p is not None and p < LEVEL for p in corrected),
        paper=None if lead is None else shown(lead),
        needed=_needed(table.shape, error, lead) if error and lead else None,
    )


def degrees(shape: tuple[int, ...], seeds: int) -> int:
    """Of freedom, of what is left over of methods by so many seeds."""
    return (shape[0] - 1) * (seeds - 1)


def _error(table: Array) -> Callable[[int], float] | None:
    """The standard error of a difference of two methods over so many seeds; None of values [methods, 1]."""
    methods, seeds = table.shape
    if seeds < 2:
        return None
    left = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    variance = float((left**2).sum()) / degrees((methods, seeds), seeds)
    return lambda count: math.sqrt(2 * variance / count)


def _needed(shape: tuple[int, ...], error: Callable[[int], float], lead: float) -> int | None:
    """The fewest seeds with which a difference would be found in four of five repetitions."""
    counts = range(2, MOST + 1)
    return next((n for n in counts if of_error(lead, error(n), degrees(shape, n)).detectable <= lead), None)


def _printed(run: Run, block: Sequence[Line]) -> list[PaperRow]:
    """The paper's rows of a block: of the first of its tables that has its own method and another one there."""
    for key in (key for key in items() if key.startswith("table")):
        rows = [
            paper
            for line in block
            for paper in load_item(key).rows
            if is_row(line, paper, run.papers) and plain(line["label"]) == plain(paper.label)
        ]
        if {method().name} < {row.method for row in rows}:
            return rows
    return []


def _lead(
    rows: Sequence[PaperRow], value: Callable[[Mapping[str, float | None]], float | None], sign: int
) -> float | None:
    """How far the paper's own method is ahead of the best other; `sign`: 1 where more is better."""
    known = [(row, told) for row in rows if (told := value(row.metrics)) is not None]
    own = [told for row, told in known if row.method == method().name]
    others = [told for row, told in known if row.method != method().name]
    return sign * own[0] - max(sign * told for told in others) if own and others else None
