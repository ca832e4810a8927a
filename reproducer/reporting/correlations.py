"""Whether what a search goes by tells what a pruned model is worth: its objective against what is reported.

Of every pruned row whose objective is known, over methods and seeds. Ranks are compared (Spearman), as perplexities of
ruined models would drown the others. Rows of one method are alike, so the interval resamples methods whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reproducer.reporting.bootstrap import DRAWS, LEVEL, SEED, Array
from reproducer.reporting.cost import seen_columns, unseen_columns
from reproducer.reporting.rows import CUT, blocks, lines
from reproducer.stages.results import Column, Results, Row

FEWEST = 4  # methods with a value, below which a correlation says nothing


@dataclass(frozen=True)
class Correlation:
    """Of the search objective with a measure, over the pruned rows of one model and cut.

    Attributes:
        recovery: of the rows that were measured; the objective is always that of the untuned model.
        measure: `perplexity`, `unseen perplexity`, `accuracy` (the average), or `margins` (the mean of the tasks'
            margins, each in its standard deviations).
        helpful: the sign that it has where a lower objective means a better model.
        rows, methods: how many there are.
        rho, low, high: Spearman's coefficient, and its interval of a confidence of 1 - `LEVEL`.
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
        rows = [row for line in block if line["method"] != "dense" for row in line["rows"]]
        known = [row for row in rows if row.search_objective is not None]
        for measure, helpful, values in _measures(results, known, averaged.get(block[0]["model"])):
            pairs = [(row, value) for row, value in zip(known, values, strict=True) if value is not None]
            several = len({value for _, value in pairs}) > 1
            if several and len({row.label for row, _ in pairs}) >= FEWEST:
                place = {name: block[0][name] for name in CUT}
                found.append(Correlation(**place, measure=measure, helpful=helpful, **_coefficient(pairs)))
    return found


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


def _coefficient(pairs: Sequence[tuple[Row, float]]) -> dict[str, Any]:
    both = np.array([(row.search_objective, value) for row, value in pairs], dtype=float)
    labels = list(dict.fromkeys(row.label for row, _ in pairs))
    method = np.array([labels.index(row.label) for row, _ in pairs])
    drawn = np.random.RandomState(SEED).randint(len(labels), size=(DRAWS, len(labels)))
    times = (drawn[:, :, None] == np.arange(len(labels))).sum(axis=1)  # that each method is in a resample
    low, high = np.nanquantile(spearman(both, times[:, method].astype(float)), [LEVEL / 2, 1 - LEVEL / 2])
    rho = float(spearman(both, np.ones((1, len(pairs))))[0])
    return {"rows": len(pairs), "methods": len(labels), "rho": rho, "low": float(low), "high": float(high)}


def spearman(both: Array, weights: Array) -> Array:
    """Of pairs [n, 2], each as often as its weight says, once for each row of `weights` [draws, n].

    NaN where one side is all the same.
    """
    sides = [_ranks(both[:, side], weights) for side in (0, 1)]
    total = weights.sum(axis=1, keepdims=True)
    a, b = (ranks - (weights * ranks).sum(axis=1, keepdims=True) / total for ranks in sides)
    covariance = (weights * a * b).sum(axis=1)
    scale = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    return np.divide(covariance, scale, out=np.full(len(weights), np.nan), where=scale > 0)


def _ranks(values: Array, weights: Array) -> Array:
    """The ranks of values [n] that stand there several times each, ties in their middle: [draws, n]."""
    of_group, group = np.unique(values, return_inverse=True)
    together = np.zeros((len(weights), len(of_group)))
    np.add.at(together.T, group, weights.T)
    ends = together.cumsum(axis=1)
    return (ends - (together - 1) / 2)[:, group]
