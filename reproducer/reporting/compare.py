"""The paper's numbers (paper/*.yaml) and what was measured, cell by cell.

Everything here is in the paper's units: perplexities, and accuracies in percent.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from reproducer.reporting.summary import Group, groups, mean

PAPER = Path(__file__).parent / "paper"
SEVEN_TASKS = tuple(
    f"{task}_acc"
    for task in ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
)  # fmt: skip


def paper_items() -> list[str]:
    """The items of the paper whose data the package holds: `figure1`, …, `table10`, `text`."""
    return sorted(path.stem for path in PAPER.glob("*.yaml"))


@cache
def _read(key: str) -> dict[str, Any]:
    return yaml.safe_load((PAPER / f"{key}.yaml").read_text(encoding="utf-8"))


def load_item(key: str) -> dict[str, Any]:
    """The paper's item `key` (see `paper_items`) with one dict a row.

    Returns:
        `item`, `caption`, `columns`, `slips`, `facts` and whatever else the file holds, and `rows`, each with `model`,
        `method`, `label`, `ratio`, `structure_ratio`, `recovery`, `metrics` (key -> number or None, as printed),
        `stated` (keys of metrics that the text gives and the table does not) and `derived` (keys computed from the
        printed cells: the average of the seven accuracies where the table does not print one).

    Raises:
        KeyError: the package has no such item.
    """
    if key not in paper_items():
        raise KeyError(key)
    data = dict(_read(key))
    rows = [
        _row(block, row, data["columns"]) for block in data.pop("blocks", []) for row in block["rows"]
    ]  # fmt: skip
    slips = list(data.get("slips", []))
    for table in data.get("averages_of", []):
        source = load_item(table)
        rows += [{**row, "metrics": {k: row["metrics"].get(k) for k in data["columns"]}} for row in source["rows"]]
        slips += source["slips"]
    if "dense_from" in data:
        dense = [row for row in load_item(data.pop("dense_from"))["rows"] if row["method"] == "dense"]
        rows = dense + rows
    return {**data, "rows": rows, "slips": slips, "facts": data.get("facts", [])}


def _row(block: Mapping[str, Any], row: Mapping[str, Any], columns: list[str]) -> dict[str, Any]:
    metrics = dict(zip(columns, row["values"], strict=True)) | row.get("stated", {})
    accuracies = [metrics[key] for key in SEVEN_TASKS if metrics.get(key) is not None]
    derived = []
    if "average_acc" not in metrics and len(accuracies) == len(SEVEN_TASKS):
        metrics["average_acc"] = round(sum(accuracies) / len(accuracies), 4)
        derived = ["average_acc"]
    return {
        "model": block["model"],
        "method": row["method"],
        "label": row["label"],
        "ratio": block["ratio"],
        "structure_ratio": block.get("structure_ratio"),
        "recovery": block["recovery"],
        "metrics": metrics,
        "stated": list(row.get("stated", {})),
        "derived": derived,
    }


def item_key(reproduces: Mapping[str, int] | None) -> str | None:
    """`{"table": 1}` -> `table1`; None for a spec that reproduces nothing."""
    if not reproduces:
        return None
    return "".join(f"{kind}{number}" for kind, number in reproduces.items())


def compare(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The paper's rows beside ours, for results.json's `paper`; None if the spec reproduces no item that is held here.

    A row of ours and one of the paper's are the same when method, label, recovery and ratio are (the method plays no
    part where the item says `any_method`). Where a profile put
    another model in the paper's model's place (told by `results["stands_for"]`, {ours: the paper's}, else by their
    order), `in_kind` is true: then only what is relative to the dense row should be read.

    Returns:
        `item`, `caption`, `in_kind`, `models` {ours: the paper's}, `rows`, `only_paper` and `only_ours` (labels without
        a partner), `orders` (Kendall's tau-b between the paper's order of the methods and ours, by block and metric),
        `slips`, `facts`. A row has a `status` (`done` with one seed at least, `failed`, `missing`); its `cells` hold by
        metric `paper`, `ours` (mean over seeds), `difference` (ours − paper), `paper_from_dense`, `ours_from_dense` and
        `difference_from_dense`; all but accuracies also `paper_over_dense` and `ours_over_dense`, factors. What is not
        known is None.
    """
    key = item_key(results["spec"].get("reproduces"))
    if key is None or key not in paper_items():
        return None
    item = averaged_over(load_item(key), results["metrics"])
    ours = groups(results["rows"])
    models = _stands_for(results, item)
    kinds = {metric["key"]: metric["kind"] for metric in results["metrics"]}
    pairs = [(line, _partner(line, ours, item, models)) for line in ours]
    dense = {paper["model"]: (line, paper) for line, paper in pairs if paper is not None and line.dense}
    rows = [_compare_row(line, paper, dense, kinds) for line, paper in pairs if paper is not None]
    matched = [id(paper) for _, paper in pairs if paper is not None]
    return {
        **{name: value for name, value in item.items() if name not in ("rows", "columns", "averages_of")},
        "in_kind": any(name != paper for name, paper in models.items()),
        "models": models,
        "rows": rows,
        "only_paper": [_name(row) for row in item["rows"] if id(row) not in matched],
        "only_ours": [_name(vars(line)) for line, paper in pairs if paper is None],
        "orders": _orders(rows),
    }


def averaged_over(item: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The item with its averages over the tasks of `metrics`, where these are not the seven that the paper averages.

    Where an item prints no single tasks, an average over others than the seven is not known.
    """
    tasks = [m["key"] for m in metrics if m["kind"] == "accuracy" and m["key"] != "average_acc"]
    if not tasks or set(tasks) == set(SEVEN_TASKS):
        return dict(item)
    rows = []
    for row in item["rows"]:
        if row["metrics"].get("average_acc") is not None:
            values = [row["metrics"].get(task) for task in tasks]
            average = None if None in values else round(sum(values) / len(values), 4)
            derived = sorted({*row["derived"], "average_acc"})
            row = {**row, "metrics": {**row["metrics"], "average_acc": average}, "derived": derived}
        rows.append(row)
    return {**item, "rows": rows}


def _name(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("model", "label", "ratio", "structure_ratio", "recovery")}


def _stands_for(results: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, str]:
    told = results.get("stands_for") or {}
    papers = list(dict.fromkeys(row["model"] for row in item["rows"]))
    names = list(dict.fromkeys(row["model"] for row in results["rows"]))
    models = {name: told.get(name, name) for name in names if told.get(name, name) in papers}
    left = [paper for paper in papers if paper not in models.values()]
    return models | dict(zip((name for name in names if name not in models), left, strict=False))


def _plain(label: str) -> str:
    """A label without case, blanks and the method's name: `AdaPruner w/o D` is `w/o D`."""
    return "".join(label.lower().replace("adapruner", "").split())


def _partner(
    line: Group, ours: list[Group], item: Mapping[str, Any], models: Mapping[str, str]
) -> dict[str, Any] | None:
    any_method = item.get("any_method", False)

    def same(paper: Mapping[str, Any]) -> bool:
        method = paper["method"] == line.method or (any_method and "dense" not in (paper["method"], line.method))
        if paper["model"] != models.get(line.model) or not method:
            return False
        if line.dense:
            return True
        if paper["recovery"] != line.recovery:
            return False
        by_ratio = line.ratio is not None and abs(line.ratio - paper["ratio"]) < 1e-9
        by_layer = line.structure_ratio is not None and line.structure_ratio == paper["structure_ratio"]
        return by_ratio or by_layer

    found = [paper for paper in item["rows"] if same(paper)]
    named = [paper for paper in found if _plain(paper["label"]) == _plain(line.label)]
    if named:
        return named[0]
    alone = sum(other.method == line.method and other.block == line.block for other in ours) == 1
    return found[0] if (alone or any_method) and len(found) == 1 else None


def _compare_row(
    line: Group,
    paper: Mapping[str, Any],
    dense: Mapping[str, tuple[Group, Mapping[str, Any]]],
    kinds: Mapping[str, str],
) -> dict[str, Any]:
    dense_line, dense_paper = dense.get(paper["model"], (None, None))
    cells = {}
    for key, kind in kinds.items():
        unit = 100 if kind == "accuracy" else 1
        theirs, mine = paper["metrics"].get(key), _scaled(line, key, unit)
        their_dense = None if dense_paper is None else dense_paper["metrics"].get(key)
        my_dense = None if dense_line is None else _scaled(dense_line, key, unit)
        cell = {
            "paper": theirs,
            "ours": mine,
            "difference": _minus(mine, theirs),
            "paper_from_dense": _minus(theirs, their_dense),
            "ours_from_dense": _minus(mine, my_dense),
        }
        cell["difference_from_dense"] = _minus(cell["ours_from_dense"], cell["paper_from_dense"])
        if kind != "accuracy":
            cell["paper_over_dense"] = _over(theirs, their_dense)
            cell["ours_over_dense"] = _over(mine, my_dense)
        cells[key] = cell
    named = {**_name(vars(line)), "method": line.method, "paper_model": paper["model"], "paper_label": paper["label"]}
    status = "done" if line.done else "failed" if line.failed else "missing"
    return {**named, "status": status, "stated": paper["stated"], "derived": paper["derived"], "cells": cells}


def _scaled(line: Group, key: str, unit: float) -> float | None:
    value = mean(line.values(key))
    return None if value is None else unit * value


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _over(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _orders(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from scipy.stats import kendalltau

    found: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        if row["method"] != "dense":
            found.setdefault((row["model"], row["ratio"], row["structure_ratio"], row["recovery"]), []).append(row)
    orders = []
    for (model, ratio, structure_ratio, recovery), members in found.items():
        for key in members[0]["cells"]:
            cells = [row["cells"][key] for row in members]
            both = [(c["paper"], c["ours"]) for c in cells if c["paper"] is not None and c["ours"] is not None]
            if len({p for p, _ in both}) < 2 or len({o for _, o in both}) < 2 or len(both) < 3:
                continue  # no order to compare
            tau = float(kendalltau(*zip(*both, strict=True)).statistic)
            orders.append(
                {"model": model, "ratio": ratio, "structure_ratio": structure_ratio, "recovery": recovery}
                | {"metric": key, "methods": len(both), "tau": tau}
            )
    return orders
