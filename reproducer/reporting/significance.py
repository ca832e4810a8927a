"""Paired tests between the paper's own method and the others, over the items and windows that both rows hold.

Scores of 0 and 1: the exact McNemar test, per task and over all tasks of the average together. Margins: the paired
t-test, whose interval is of the very mean that the report shows; items are many enough for their differences to need no
normal distribution. Other scores, and the losses of perplexity's windows: Wilcoxon's signed-rank test. Each of the four
families of a block (one model, cut and recovery) is corrected after Holm. They hold for one pruned model: blocks with
several seeds are left out, whose standard deviations tell more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

from reproducer.paper import method
from reproducer.reporting.bootstrap import LEVEL
from reproducer.reporting.rows import CUT, Line, blocks, lines
from reproducer.stages.results import Column, Results, Row

Family = Literal["pooled", "windows", "tasks", "margins"]


@dataclass(frozen=True)
class PairedTest:
    """One paired test.

    Attributes:
        measure: the key of a column; None for the tasks together that averages are over.
        n: pairs; 0 where the two rows do not hold the same items.
        better, worse: pairs in which the reference beats the baseline, or loses to it.
        p, p_holm: two-sided; after Holm's correction. None without pairs.
        difference, half: of margins: the mean of the reference's minus the baseline's, and half the width of its
            interval at a confidence of 1 - `LEVEL`.
    """

    model: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    recovery_label: str | None
    reference: str
    baseline: str
    family: Family
    measure: str | None
    n: int
    better: int
    worse: int
    p: float | None
    p_holm: float | None = None
    difference: float | None = None
    half: float | None = None


def paired_tests(results: Results) -> list[PairedTest]:
    """All paired tests that the items of `results` allow, block by block.

    The reference is the first line of the paper's own method in a block; every other pruned line is tested against it.
    """
    families: tuple[Family, ...] = ("tasks", "margins", "pooled", "windows")
    averaged = {model.name: model.averaged for model in results.models}
    found = []
    for block in blocks(lines(results.rows)):
        pruned = [line for line in block if line["method"] != "dense" and line["done"]]
        reference = next((line for line in pruned if line["method"] == method().name), None)
        if reference is None or any(len(line["rows"]) > 1 for line in block):
            continue
        columns = results.columns
        tests = [
            test
            for line in pruned
            if line is not reference
            for test in _tests(reference, line, columns, averaged.get(line["model"]))
        ]
        for family in families:
            found += _holm([test for test in tests if test.family == family])
    return found


def mcnemar_p(better: int, worse: int) -> float:
    """The two-sided p of the exact McNemar test for the two counts of discordant pairs; 1 if there are none."""
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def wilcoxon_p(a: Sequence[float], b: Sequence[float]) -> float:
    """The two-sided p of Wilcoxon's signed-rank test for paired numbers; 1 if all pairs are equal."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(a, b).pvalue) if any(x != y for x, y in zip(a, b, strict=True)) else 1.0


def mean_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Of two or more paired numbers: the mean of a - b, half the width of its t-interval, the paired t-test's p.

    The interval has a confidence of 1 - `LEVEL`, p is two-sided; 1 if all pairs are equal.
    """
    from scipy.stats import t as student

    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean, degrees = fmean(differences), len(differences) - 1
    error = stdev(differences) / math.sqrt(len(differences))
    half = float(student.ppf(1 - LEVEL / 2, degrees)) * error
    if error == 0:
        return mean, half, 0.0 if mean else 1.0
    return mean, half, 2 * float(student.sf(abs(mean) / error, degrees))


Scores = list[tuple[float, float]]  # of the reference and the baseline, higher is better


def _tests(reference: Line, line: Line, columns: Sequence[Column], averaged: Sequence[str] | None) -> list[PairedTest]:
    ours, theirs = reference["done"][0], line["done"][0]
    identity = {name: line[name] for name in CUT} | {"reference": reference["label"], "baseline": line["label"]}

    def test(family: Family, measure: str | None, scores: Scores, binary: bool = False) -> PairedTest:
        better, worse = sum(a > b for a, b in scores), sum(a < b for a, b in scores)
        p = difference = half = None
        if family == "margins" and len(scores) > 1:
            difference, half, p = mean_difference(*zip(*scores, strict=True))
        elif family != "margins" and scores:
            p = mcnemar_p(better, worse) if binary else wilcoxon_p(*zip(*scores, strict=True))
        return PairedTest(
            **identity, family=family, measure=measure, n=len(scores), better=better, worse=worse, p=p,
            difference=difference, half=half,
        )  # fmt: skip

    tests, pooled = [], []
    for column in columns:
        if column.source is not None and column.score is not None and column.source in ours.items:
            scores = _items(ours, theirs, column.source, column.score, column.higher_is_better)
            binary = {abs(score) for pair in scores for score in pair} <= {0, 1} and not column.is_margin
            tests.append(test("margins" if column.is_margin else "tasks", column.key, scores, binary))
            if binary and (averaged is None or column.key in averaged or column.kind != "accuracy"):
                pooled.append(scores)
        if column.key in ours.window_losses:
            pairs = zip(ours.window_losses[column.key], theirs.window_losses.get(column.key, []), strict=False)
            same = len(ours.window_losses[column.key]) == len(theirs.window_losses.get(column.key, []))
            tests.append(test("windows", column.key, [(-a, -b) for a, b in pairs] if same else []))
    if len(pooled) > 1:
        tests.append(test("pooled", None, [pair for scores in pooled for pair in scores], True))
    return tests


def _items(ours: Row, theirs: Row, task: str, score: str, higher_is_better: bool) -> Scores:
    """The items' scores, paired by id; nothing where the rows do not hold the same items."""
    sign = 1 if higher_is_better else -1
    a, b = (
        {item.id: sign * item.scores[score] for item in row.items.get(task, []) if score in item.scores}
        for row in (ours, theirs)
    )
    return [(a[key], b[key]) for key in a] if a.keys() == b.keys() else []


def _holm(family: Sequence[PairedTest]) -> list[PairedTest]:
    return [replace(test, p_holm=p) for test, p in zip(family, holm([test.p for test in family]), strict=True)]


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values after Holm's correction: the k-th smallest of m times m - k, never falling; None stays out of it."""
    ranked = sorted((p, place) for place, p in enumerate(values) if p is not None)
    corrected: dict[int, float] = {}
    reached = 0.0
    for rank, (p, place) in enumerate(ranked):
        reached = corrected[place] = max(reached, min(1.0, (len(ranked) - rank) * p))
    return [corrected.get(place) for place in range(len(values))]
