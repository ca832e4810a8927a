"""Is the difference between AdaPruner and a baseline more than chance?

With one seed: paired tests over the same items. Zero-shot items: the exact McNemar test, per task and over all tasks
together. Perplexity: Wilcoxon's signed-rank test over the windows' losses. Each of the three families of a block (one
model, ratio and recovery) is corrected after Holm. With several seeds the table's standard deviations speak instead.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reproducer.reporting.summary import Group, Row, blocks, groups

POOLED = "all tasks"
WINDOWS = "Wilcoxon signed-rank"


@dataclass(frozen=True)
class PairedTest:
    """One paired test.

    `better` and `worse` count the items or windows on which the reference beats the baseline or loses to it, among `n`
    pairs; `p_holm` is p after Holm's correction.
    """

    model: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    reference: str
    baseline: str
    measure: str
    test: str
    n: int
    better: int
    worse: int
    p: float
    p_holm: float = math.nan


def paired_tests(results: Mapping[str, Any]) -> list[PairedTest]:
    """All paired tests that the per-item results of `results` allow, block by block.

    The reference is the first `adapruner` line of a block; every other pruned line of the block is tested against it.
    A block with several seeds is left out. Two lines can be compared on a task only if both hold the same item ids (or
    as many windows); where they do not, the test is there with n = 0 and NaN for p.
    """
    correct = {
        metric["key"].removesuffix("_acc"): metric.get("score") or "acc"
        for metric in results["metrics"]
        if metric["kind"] == "accuracy"
    }
    order = {metric["key"]: place for place, metric in enumerate(results["metrics"])}
    found: list[PairedTest] = []
    for block in blocks(groups(results["rows"])):
        lines = [line for line in block if not line.dense and len(line.done) == 1]
        reference = next((line for line in lines if line.method == "adapruner"), None)
        if reference is None or any(len(line.rows) > 1 for line in block):
            continue
        families: tuple[list[PairedTest], ...] = ([], [], [])
        for line in lines:
            if line is reference:
                continue
            for test in _mcnemar_tests(reference, line, correct, order):
                families[test.measure == POOLED].append(test)
            families[2].extend(_window_tests(reference, line, order))
        for family in families:
            found.extend(_holm(family))
    return found


def several_seeds(results: Mapping[str, Any]) -> bool:
    """True if any configuration was run with more than one seed."""
    return any(len(line.rows) > 1 for line in groups(results["rows"]))


def mcnemar_p(better: int, worse: int) -> float:
    """The two-sided p of the exact McNemar test for the two counts of discordant pairs; 1 if there are none."""
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar([[0, better], [worse, 0]], exact=True).pvalue) if better + worse else 1.0


def wilcoxon_p(a: Sequence[float], b: Sequence[float]) -> float:
    """The two-sided p of Wilcoxon's signed-rank test for paired numbers; 1 if all pairs are equal."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(a, b).pvalue) if any(x != y for x, y in zip(a, b, strict=True)) else 1.0


def _test(reference: Group, line: Group, measure: str, test: str, pairs: Sequence[tuple], p: Callable) -> PairedTest:
    """`pairs` are (reference, baseline) scores, higher better; `p` gives the p-value from the counts."""
    better = sum(a > b for a, b in pairs)
    worse = sum(a < b for a, b in pairs)
    value = float(p(better, worse)) if pairs else math.nan
    return PairedTest(*line.block, reference.label, line.label, measure, test, len(pairs), better, worse, value)


def _mcnemar_tests(
    reference: Group, line: Group, correct: Mapping[str, str], order: Mapping[str, int]
) -> list[PairedTest]:
    """One test a task, and where there are several tasks, one more over all of them."""
    mine, theirs = reference.done[0].get("items") or {}, line.done[0].get("items") or {}
    tests, pooled = [], []
    for task, items in sorted(mine.items(), key=lambda entry: order.get(f"{entry[0]}_acc", len(order))):
        field = correct.get(task, "acc")
        a, b = _by_id(items, field), _by_id(theirs.get(task) or [], field)
        pairs = [(a[key], b[key]) for key in a] if a.keys() == b.keys() else []
        pooled += pairs
        tests.append(_test(reference, line, task, "exact McNemar", pairs, mcnemar_p))
    if len(tests) > 1:
        tests.append(_test(reference, line, POOLED, "exact McNemar", pooled, mcnemar_p))
    return tests


def _by_id(items: Sequence[Row], field: str) -> dict[Any, bool]:
    return {item["id"]: bool(item["acc"] if item.get(field) is None else item[field]) for item in items}


def _window_tests(reference: Group, line: Group, order: Mapping[str, int]) -> list[PairedTest]:
    mine, theirs = reference.done[0].get("window_losses") or {}, line.done[0].get("window_losses") or {}
    tests = []
    for dataset, losses in sorted(mine.items(), key=lambda entry: order.get(entry[0], len(order))):
        others = theirs.get(dataset) or []
        pairs = [(-a, -b) for a, b in zip(losses, others, strict=True)] if len(losses) == len(others) else []
        p = wilcoxon_p(losses, others) if pairs else math.nan
        tests.append(_test(reference, line, dataset, WINDOWS, pairs, lambda *_, p=p: p))
    return tests


def _holm(family: Sequence[PairedTest]) -> list[PairedTest]:
    from statsmodels.stats.multitest import multipletests

    tested = [test for test in family if test.n]
    corrected = multipletests([test.p for test in tested], method="holm")[1] if tested else []
    by_test = dict(zip(map(id, tested), corrected, strict=True))
    return [replace(test, p_holm=float(by_test.get(id(test), math.nan))) for test in family]
