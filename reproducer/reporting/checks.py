"""What the report says of the paper's numbers beside the run's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reproducer.reporting.sections import ARROWS, Results
from reproducer.reporting.summary import other_text, perplexity_text, ratio_text, recovery_text
from reproducer.reporting.tables import Table


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
    values = ("Values; a difference is ours minus the paper’s.", _values_table(paper, metrics)) if metrics else None
    tables = [values] if values and not paper["in_kind"] else []
    if metrics and any(
        row["cells"][m["key"]]["paper_from_dense"] is not None for row in paper["rows"] for m in metrics
    ):
        caption = (
            "Against the dense model: accuracy in points above the dense row’s, with the difference of the differences "
            "(ours minus the paper’s); all else as a multiple of the dense row’s."
        )
        tables.append((caption, _dense_table(paper, metrics)))
    if paper["orders"]:
        caption = (
            "Does the order of the methods hold? Kendall’s τ between the paper’s order and ours (1: the same, "
            "0: unrelated, −1: reversed)."
        )
        tables.append((caption, _order_table(paper, metrics)))
    if values and paper["in_kind"]:
        tables.append(
            ("The values themselves, of different models; a difference is ours minus the paper’s.", values[1])
        )
    return {
        "title": f"Beside the paper’s {paper['item']}",
        "sentences": _sentences(paper, metrics, results["metrics"]),
        "tables": tables,
        "slips": [_slip(slip, results) for slip in paper["slips"]],
    }


def _sentences(
    paper: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], shown: Sequence[Mapping[str, Any]]
) -> list[str]:
    """`metrics` are those that the paper has too, `shown` all of the run's."""
    sentences = [f"The paper’s caption: “{paper['caption']}”"]
    if paper["in_kind"]:
        swaps = [
            f"{ours} stands for the paper’s {theirs}" for ours, theirs in paper["models"].items() if ours != theirs
        ]
        sentences.append(
            f"{', '.join(swaps)}: another model, so the values differ and say nothing about the paper’s. What is "
            "compared, in kind, is the order of the methods, and what pruning did to each model against its own "
            "dense row."
        )
    if paper.get("any_method"):
        sentences.append(
            "Sizes and times do not depend on which units a method removes, only on how many: the paper’s pruned row "
            "stands beside each of ours of its ratio."
        )
    if not metrics and not paper.get("generations"):
        sentences.append("No measure of this run is one that the paper prints there.")
    if any(metric["key"] in row["derived"] for row in paper["rows"] for metric in metrics):
        tasks = [metric["label"] for metric in shown if metric["kind"] == "accuracy" and metric["key"] != "average_acc"]
        sentences.append(f"The paper’s averages are computed from its printed accuracies of {', '.join(tasks)}.")
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
    def text(side: str) -> Callable[[Mapping[str, Any], str], str]:
        def of(cell: Mapping[str, Any], kind: str) -> str:
            if kind == "accuracy":
                return _signed(cell["difference_from_dense" if side == "difference" else f"{side}_from_dense"], kind)
            factor = cell.get(f"{side}_over_dense")
            return "" if factor is None else f"×{perplexity_text(factor)}"

        return of

    pruned = {**paper, "rows": [row for row in paper["rows"] if row["method"] != "dense"]}
    return _table(pruned, metrics, [(side, text(side)) for side in ("paper", "ours", "difference")])


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
