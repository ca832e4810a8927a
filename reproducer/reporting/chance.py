"""Whether differences are more than chance: what several seeds, or paired tests within one, tell."""

from collections.abc import Sequence
from typing import Any

from reproducer.reporting.sections import Results
from reproducer.reporting.significance import POOLED, WINDOWS, PairedTest, paired_tests, several_seeds
from reproducer.reporting.summary import ratio_text, recovery_text
from reproducer.reporting.tables import Cell, Table

LEVEL = 0.05  # the paper's


def significance_section(results: Results) -> dict[str, Any] | None:
    """`sentences` and `tables` [(caption, Table)], or None if there is nothing to test.

    With one seed: paired tests. With several: what the ± in the results means.
    """
    if several_seeds(results):
        seeds = sorted({row["seed"] for row in results["rows"]})
        text = (
            f"Seeds {', '.join(map(str, seeds))}. A cell is the mean over the seeds that were finished ± the sample "
            "standard deviation (n − 1). A method without randomness has none."
        )
        return {"sentences": [text], "tables": []}
    tests = paired_tests(results)
    if not tests:
        return None
    sentences = [
        f"One seed; {tests[0].reference} against each of the others, on the same items. “Better” counts the items (or "
        "windows of text) on which it is right and the other wrong (or its loss is lower), “Worse” the reverse.",
        "Exact McNemar tests for zero-shot items, Wilcoxon’s signed-rank test for the losses of windows; both "
        "two-sided. Holm’s correction within each of three families of a model, ratio and tuning: all tasks together, "
        f"the single tasks, the texts. In bold: corrected p < {LEVEL:g}, the paper’s claim; for better or worse, the "
        "counts tell.",
        "This tells how far chance in the items reaches. It does not tell how far another seed or another draw of "
        "calibration samples would move the numbers: for that, run several seeds.",
    ]
    single = [test for test in tests if test.test != WINDOWS and test.measure != POOLED]
    parts = [
        ("All tasks together:", [test for test in tests if test.measure == POOLED], _tests_table),
        ("The texts, window by window:", [test for test in tests if test.test == WINDOWS], _tests_table),
        ("The single tasks, each cell better : worse and the corrected p:", single, _tasks_table),
    ]
    if len({test.measure for test in single}) < 2:
        parts[2] = (parts[2][0].split(",")[0] + ":", single, _tests_table)
    tables = [(caption, table(members, results)) for caption, members, table in parts if members]
    return {"sentences": sentences, "tables": tables}


def _head(tests: Sequence[PairedTest]) -> list[str]:
    """What the lines begin with: model and ratio where the tests differ in them, tuning, rival."""
    models, cuts = {test.model for test in tests}, {(test.ratio, test.structure_ratio) for test in tests}
    return ["Model"] * (len(models) > 1) + ["Ratio"] * (len(cuts) > 1) + ["Tuning", "Against"]


def _place(test: PairedTest, head: Sequence[str]) -> list[str]:
    texts = {
        "Model": test.model,
        "Ratio": ratio_text(test.ratio, test.structure_ratio),
        "Tuning": recovery_text(test.recovery),
        "Against": test.baseline,
    }
    return [texts[name] for name in head]


def _tests_table(tests: Sequence[PairedTest], results: Results) -> Table:
    """A line a test, a rule between the blocks."""
    labels = _labels(results)
    named = len({test.measure for test in tests}) > 1 or tests[0].measure != POOLED
    head = _head(tests)
    headers = [*head, *["On"] * named, "Pairs", "Better", "Worse", "p", "p (Holm)"]
    table = Table(headers, "l" * (len(head) + named) + "rrrrr")
    last = None
    for test in tests:
        block = (test.model, test.ratio, test.structure_ratio, test.recovery)
        if block != last:
            table.rule()
        last = block
        numbers = [str(test.n), str(test.better), str(test.worse), _p(test.p)]
        if not test.n:
            numbers = ["not the same items", None, None, None]
        name = [labels.get(test.measure, test.measure)] * named
        table.add(*_place(test, head), *name, *numbers, Cell(_p(test.p_holm), test.p_holm < LEVEL))
    return table


def _tasks_table(tests: Sequence[PairedTest], results: Results) -> Table:
    """A line a block and rival, a column a task."""
    labels = _labels(results)
    tasks = list(dict.fromkeys(test.measure for test in tests))
    head = _head(tests)
    headers = [*head, *(labels.get(task, task) for task in tasks)]
    table = Table(headers, "l" * len(head) + "r" * len(tasks))
    lines: dict[tuple, dict[str, PairedTest]] = {}
    for test in tests:
        key = (test.model, test.ratio, test.structure_ratio, test.recovery, test.baseline)
        lines.setdefault(key, {})[test.measure] = test
    last = None
    for key, by_task in lines.items():
        if key[:-1] != last:
            table.rule()
        last = key[:-1]
        first = next(iter(by_task.values()))
        table.add(*_place(first, head), *(_counts(by_task.get(task)) for task in tasks))
    return table


def _counts(test: PairedTest | None) -> Cell:
    if test is None:
        return Cell(None)
    if not test.n:
        return Cell("other items")
    return Cell(f"{test.better} : {test.worse} ({_p(test.p_holm)})", test.p_holm < LEVEL)


def _labels(results: Results) -> dict[str, str]:
    """Labels of the columns, by their keys, and by the tasks and texts that these are made of."""
    by_key = {metric["key"]: metric["label"] for metric in results["metrics"]}
    return by_key | {key.removesuffix("_acc").removesuffix("_ppl"): label for key, label in by_key.items()}


def _p(value: float) -> str | None:
    if value != value:
        return None
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
