"""Whether what a search goes by tells what a pruned model is worth: its objective against what is reported.

A point is a method, the mean over its rows whose objective is known: seeds of one method are alike, and more of them
are no more methods. Ranks are compared (Spearman), as perplexities of ruined models would drown the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from reproducer.reporting.bootstrap import LEVEL
from reproducer.reporting.cost import seen_columns, unseen_columns
from reproducer.reporting.rows import CUT, blocks, lines
from reproducer.stages.results import Column, Results, Row

FEWEST = 5  # methods, below which not even the same order on both sides is significant: of four it has a p of 0.08


@dataclass(frozen=True)
class Correlation:
    """Of the search objective with a measure, over the pruned rows of one model and cut.

    Attributes:
        recovery: of the rows that were measured; the objective is always that of the untuned model.
        measure: `perplexity`, `unseen perplexity`, `accuracy` (the average), or `margins` (the mean of the tasks'
            margins, each in its standard deviations).
        helpful: the sign that it has where a lower objective means a better model.
        rows, methods: how many there are.
        rho, low, high: Spearman's coefficient over the methods, and its interval (see `interval`).
    """

    model: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    recovery_label: str | None
    measure: str
    helpful: int
    rows: int
    methods: int
    rho: float
    low: float
    high: float


def correlations(results: Results) -> list[Correlation]:
    """All that the rows allow, in their order; untuned and tuned ones apart."""
    averaged = {model.name: model.averaged for model in results.models}
    found = []
    for block in blocks(lines(results.rows)):
        rows = _distinct(row for line in block if line["method"] != "dense" for row in line["rows"])
        known = [row for row in rows if row.search_objective is not None]
        for measure, helpful, values in _measures(results, known, averaged.get(block[0]["model"])):
            pairs = [(row, value) for row, value in zip(known, values, strict=True) if value is not None]
            points = _by_method(pairs)
            if len(points) >= FEWEST and all(len(set(side)) > 1 for side in zip(*points, strict=True)):
                rho = spearman(points)
                low, high = interval(rho, len(points))
                place = {name: block[0][name] for name in CUT}
                found.append(
                    Correlation(
                        **place, measure=measure, helpful=helpful, rows=len(pairs), methods=len(points), rho=rho,
                        low=low, high=high,
                    )
                )  # fmt: skip
    return found


def _distinct(rows: Iterable[Row]) -> list[Row]:
    """Without those that are another row under another label: the same plan, with the same recovery."""
    found: dict[object, Row] = {}
    for row in rows:
        found.setdefault((row.stages["plan"], row.stages.get("recovery")) if "plan" in row.stages else id(row), row)
    return [*found.values()]


def _measures(
    results: Results, rows: Sequence[Row], averaged: Sequence[str] | None
) -> list[tuple[str, int, list[float | None]]]:
    """Each measure with its helpful sign, and its value for each row."""
    margins = [
        column
        for column in results.columns
        if column.is_margin and (averaged is None or f"{column.source}_acc" in averaged)
    ]
    average = [column for column in results.columns if column.kind == "accuracy" and column.source is None]
    accuracies = average or [column for column in results.columns if column.kind == "accuracy"][:1]
    return [
        ("perplexity", 1, _means(rows, seen_columns(results))),
        ("unseen perplexity", 1, _means(rows, unseen_columns(results))),
        ("accuracy", -1, _means(rows, accuracies)),
        ("margins", -1, _means(rows, margins, standard=True)),
    ]


def _means(rows: Sequence[Row], columns: Sequence[Column], standard: bool = False) -> list[float | None]:
    """By row the mean of some columns, or None without them; `standard`: of each in its standard deviations."""
    values = np.array([[row.metrics.get(column.key) for column in columns] for row in rows], dtype=float)
    if not values.size:
        return [None] * len(rows)
    if standard:
        whole = values[~np.isnan(values).any(axis=1)]
        deviation = whole.std(axis=0) if len(whole) else np.ones(len(columns))
        values = values / np.where(deviation > 0, deviation, 1.0)
    return [None if np.isnan(mean) else float(mean) for mean in values.mean(axis=1)]


def _by_method(pairs: Sequence[tuple[Row, float]]) -> list[tuple[float, float]]:
    """By method the mean objective and the mean value of its rows."""
    by_label: dict[str, list[tuple[float, float]]] = {}
    for row, value in pairs:
        assert row.search_objective is not None
        by_label.setdefault(row.label, []).append((row.search_objective, value))
    return [(fmean(objective for objective, _ in of), fmean(value for _, value in of)) for of in by_label.values()]


def spearman(points: Sequence[tuple[float, float]]) -> float:
    """Spearman's coefficient of pairs, neither side all the same."""
    from scipy.stats import spearmanr

    return float(spearmanr(*zip(*points, strict=True)).statistic)


def interval(rho: float, count: int) -> tuple[float, float]:
    """The interval of Spearman's coefficient of `count` pairs, more than three, of a confidence of 1 - `LEVEL`.

    By Fisher's transformation with the standard error of Bonett and Wright (2000, doi:10.1007/BF02294183). It knows no
    interval of a coefficient of 1; the same order of few pairs leaves others possible all the same. So the
    transformation is of a coefficient that is half of the smallest step between two orders away from 1 at least, the
    continuity correction of Kendall's *Rank Correlation Methods*.
    """
    from scipy.stats import norm

    most = 1 - 6 / (count**3 - count)
    known = max(-most, min(most, rho))
    half = float(norm.ppf(1 - LEVEL / 2)) * math.sqrt((1 + known**2 / 2) / (count - 3))
    low, high = (math.tanh(math.atanh(known) + side * half) for side in (-1, 1))
    return min(low, rho), max(high, rho)
