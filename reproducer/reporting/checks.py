"""What the report says beside the run: the paper's numbers, and whether differences are more than chance."""

from collections.abc import Mapping, Sequence
from typing import Any

from reproducer.reporting.sections import ARROWS, Results
from reproducer.reporting.significance import POOLED, PairedTest, paired_tests, several_seeds
from reproducer.reporting.summary import other_text, perplexity_text, ratio_text, recovery_text
from reproducer.reporting.tables import Cell, Table


def paper_section(results: Results) -> dict[str, Any] | None:
    """`title`, `sentences`, `tables` [(caption, Table)] and `slips` for the paper's item, or None without one."""
    reproduces, paper = results["spec"].get("reproduces"), results.get("paper")
    if not reproduces:
        return None
    if not paper:
        name = " and ".join(f"{kind.capitalize()} {number}" for kind, number in reproduces.items())
        return {
            "title": f"Beside the paper’s {name}",
            "sentences": [f"This package holds no numbers of the paper’s {name}."],
            "tables": [],
            "slips": [],
        }
    metrics = [
        metric
        for metric in results["metrics"]
        if any(row["cells"][metric["key"]]["paper"] is not None for row in paper["rows"])
    ]
    tables = []
    if metrics and not paper["in_kind"]:
        tables.append(("Values; a difference is ours minus the paper’s.", _values_table(paper, metrics)))
    if metrics and any(
        row["cells"][m["key"]]["paper_from_dense"] is not None for row in paper["rows"] for m in metrics
    ):
        caption = "Against the dense model: accuracy in points above the dense row’s, all else as a multiple of it."
        tables.append((caption, _dense_table(paper, metrics)))
    if paper["orders"]:
        caption = (
            "Does the order of the methods hold? Kendall’s τ between the paper’s order and ours (1: the same, "
            "0: unrelated, −1: reversed)."
        )
        tables.append((caption, _order_table(paper, metrics)))
    return {
        "title": f"Beside the paper’s {paper['item']}",
        "sentences": _sentences(paper, metrics),
        "tables": tables,
        "slips": [_slip(slip, results) for slip in paper["slips"]],
    }


def _sentences(paper: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    sentences = [f"The paper’s caption: “{paper['caption']}”"]
    if paper["in_kind"]:
        swaps = ", ".join(f"{ours} stands for {theirs}" for ours, theirs in paper["models"].items() if ours != theirs)
        sentences.append(
            f"Another model was run than the paper’s ({swaps}). Values are therefore not compared: what can be "
            "compared, in kind, is what pruning did to each model, against its own dense row."
        )
    if paper.get("any_method"):
        sentences.append(
            "Sizes and times do not depend on which units a method removes, only on how many: the paper’s pruned row "
            "stands beside each of ours of its ratio."
        )
    if not metrics:
        sentences.append("No measure of this run is one that the paper prints there.")
    if any(metric["key"] in row["derived"] for row in paper["rows"] for metric in metrics):
        sentences.append("The paper’s averages are computed from its printed accuracies.")
    if any(metric["key"] in row["stated"] for row in paper["rows"] for metric in metrics):
        sentences.append("The paper’s perplexities here are those that its text states; its table has none.")
    for side, text in (("only_paper", "Rows of the paper without one of ours"), ("only_ours", "Rows of ours only")):
        if paper[side]:
            sentences.append(f"{text}: {'; '.join(_place(row) for row in paper[side])}.")
    sentences += [f"The paper says: “{fact['quote']}”" for fact in paper.get("facts") or []]
    return sentences


def _place(row: Mapping[str, Any]) -> str:
    if row["ratio"] == 0:
        return str(row["label"])
    ratio = ratio_text(row["ratio"], row["structure_ratio"])
    return f"{row['label']} ({row['model']}, {ratio}, {recovery_text(row['recovery'])})"


def _slip(slip: Mapping[str, Any], results: Results) -> str:
    labels = {metric["key"]: metric["label"] for metric in results["metrics"]}
    where = ", ".join(
        recovery_text(value) if key == "recovery" else labels.get(value, str(value))
        for key, value in slip["where"].items()
    )
    text = f"{where}: " if where else ""
    if slip["printed"] is not None:
        text += f"{slip['printed']} is printed"
        text += f", {slip['should_be']} would be right. " if slip["should_be"] is not None else ". "
    return text + slip["why"]


def _table(paper: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], lines: Sequence[tuple]) -> Table:
    """One line for each of `lines` (name, text of a cell and metric) under every method."""
    models = len({row["model"] for row in paper["rows"]}) > 1
    headers = ["Model"] * models + ["Ratio", "Tuning", "Method", ""]
    headers += [metric["label"] + ARROWS[metric["higher_is_better"]] for metric in metrics]
    table = Table(headers, "l" * (4 + models) + "r" * len(metrics))
    for row in paper["rows"]:
        if all(row["cells"][metric["key"]]["paper"] is None for metric in metrics):
            continue
        table.rule()
        head = [row["model"]] * models + [ratio_text(row["ratio"], row["structure_ratio"])]
        head += ["" if row["method"] == "dense" else recovery_text(row["recovery"]), row["label"]]
        for name, text in lines:
            cells = [text(row["cells"][metric["key"]], metric["kind"]) for metric in metrics]
            lost = name == "ours" and row["status"] == "failed"
            if any(cells) or name != "difference":
                table.add(*head, name, *(cell or ("failed" if lost else None) for cell in cells))
                head = [""] * len(head)
    return table


def _values_table(paper: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> Table:
    return _table(
        paper,
        metrics,
        [
            ("paper", lambda cell, kind: _plain(cell["paper"], kind)),
            ("ours", lambda cell, kind: _plain(cell["ours"], kind)),
            ("difference", lambda cell, kind: _signed(cell["difference"], kind)),
        ],
    )


def _dense_table(paper: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> Table:
    def text(side: str):
        def of(cell: Mapping[str, Any], kind: str) -> str:
            if kind == "accuracy":
                return _signed(cell[f"{side}_from_dense"], kind)
            factor = cell[f"{side}_over_dense"]
            return "" if factor is None else f"×{perplexity_text(factor)}"

        return of

    pruned = {**paper, "rows": [row for row in paper["rows"] if row["method"] != "dense"]}
    return _table(pruned, metrics, [("paper", text("paper")), ("ours", text("ours"))])


def _plain(value: float | None, kind: str) -> str:
    if value is None:
        return ""
    return other_text(value) if kind == "other" else perplexity_text(value)  # accuracies are in percent here


def _signed(value: float | None, kind: str) -> str:
    if value is None:
        return ""
    sign = "+" if value > 0 else "−"
    text = _plain(abs(value), kind)
    return text if float(text) == 0 else sign + text


def _order_table(paper: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(["Model", "Ratio", "Tuning", *(metric["label"] for metric in metrics)], "lll" + "r" * len(metrics))
    found: dict[tuple, dict[str, str]] = {}
    for order in paper["orders"]:
        ratio = ratio_text(order["ratio"], order["structure_ratio"])
        place = (order["model"], ratio, recovery_text(order["recovery"]))
        found.setdefault(place, {})[order["metric"]] = f"{order['tau']:.2f}".replace("-", "−")
    for place, taus in found.items():
        table.add(*place, *(taus.get(metric["key"]) for metric in metrics))
    return table


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
        "two-sided. Holm’s correction within each of three families in a block: the single tasks, all tasks together, "
        "the texts. In bold: corrected p < 0.05, the paper’s claim; for better or worse, the counts tell.",
        "This tells how far chance in the items reaches. It does not tell how far another seed or another draw of "
        "calibration samples would move the numbers: for that, run several seeds.",
    ]
    blocks: dict[tuple, list[PairedTest]] = {}
    for test in tests:
        blocks.setdefault((test.model, test.ratio, test.structure_ratio, test.recovery), []).append(test)
    tables = [
        (f"{model}, {ratio_text(ratio, structure_ratio)}, {recovery_text(recovery)}:", _tests_table(members, results))
        for (model, ratio, structure_ratio, recovery), members in blocks.items()
    ]
    return {"sentences": sentences, "tables": tables}


def _tests_table(tests: Sequence[PairedTest], results: Results) -> Table:
    """The tests of a block, a rule between the families."""
    labels = {metric["key"]: metric["label"] for metric in results["metrics"]}
    table = Table(["Against", "On", "Test", "Pairs", "Better", "Worse", "p", "p (Holm)"], "pllrrrrr")
    last = None
    for test in tests:
        family = (test.measure == POOLED, test.test)
        if family != last:
            table.rule()
        last = family
        name = labels.get(f"{test.measure}_acc") or labels.get(f"{test.measure}_ppl") or test.measure
        numbers = [str(test.n), str(test.better), str(test.worse), _p(test.p)]
        if not test.n:
            numbers = ["not the same items", None, None, None]
        table.add(test.baseline, name, test.test, *numbers, Cell(_p(test.p_holm), test.p_holm < 0.05))
    return table


def _p(value: float) -> str | None:
    if value != value:
        return None
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
