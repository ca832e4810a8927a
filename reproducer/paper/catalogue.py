"""What the files of this folder hold, typed. Numbers are as printed: perplexities, and accuracies in percent."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML

FOLDER = Path(__file__).parent
NO_ITEMS = ("method", "claims", "conditions")  # files of this folder that are no table or figure
SEVEN_TASKS = tuple(
    f"{task}_acc"
    for task in ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
)  # fmt: skip


class Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Slip(Data):
    """A mistake of the paper: where (by recovery, label, metric, …), what is printed, what would be right, and why."""

    where: dict[str, str | int] = {}
    printed: float | str | None = None
    should_be: float | str | None = None
    why: str


class PrintedText(Data):
    """A generation, prompt included; `bold` is the part that the paper prints in bold."""

    model: str
    ratio: float
    method: str
    label: str
    bold: str | None = None
    text: str


class PaperRow(Data):
    """A row of a table.

    Attributes:
        metrics: by the key of a column. None: the paper prints a dash.
        derived: keys computed from printed cells: the average of the seven accuracies where the table has none.
    """

    model: str
    method: str
    label: str
    ratio: float
    structure_ratio: float | None = None
    recovery: str
    metrics: dict[str, float | None]
    derived: list[str] = []


class Item(Data):
    """A table or figure.

    Attributes:
        columns: the metrics that it prints.
        any_method: its numbers do not depend on which method pruned.
        trials_to_converge: by sampler, as the text states them.
        prompt, generations: of Table 10.
    """

    item: str
    caption: str
    columns: list[str]
    rows: list[PaperRow] = []
    slips: list[Slip] = []
    quotes: list[str] = []
    any_method: bool = False
    trials_to_converge: dict[str, int] = {}
    prompt: str | None = None
    generations: list[PrintedText] = []


class Method(Data):
    """The paper's own method: its name in specs and its label."""

    name: str
    label: str


def items() -> list[str]:
    """The items whose files are here: `figure1`, …, `table10`, `text`."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in NO_ITEMS)


@cache
def method() -> Method:
    return Method.model_validate(read("method"))


@cache
def load_item(key: str) -> Item:
    """The item `key` (see `items`).

    A file has its rows in `blocks` of one model, ratio and recovery; `averages_of` takes the averages of other items'
    rows (a bar chart of them), and `dense_from` another item's dense row.

    Raises:
        KeyError: there is none.
    """
    if key not in items():
        raise KeyError(key)
    data = read(key)
    rows = [_row(block, row, data["columns"]) for block in data.pop("blocks", []) for row in block["rows"]]
    slips = [Slip.model_validate(slip) for slip in data.pop("slips", [])]
    for table in data.pop("averages_of", []):
        source = load_item(table)
        for row in source.rows:
            rows.append(row.model_copy(update={"metrics": {name: row.metrics.get(name) for name in data["columns"]}}))
        slips += source.slips
    if source_key := data.pop("dense_from", None):
        rows = [row for row in load_item(source_key).rows if row.method == "dense"] + rows
    return Item(rows=rows, slips=slips, **data)


def read(key: str) -> Any:
    """What a file of this folder holds."""
    return YAML(typ="safe", pure=True).load(FOLDER / f"{key}.yaml")


def _row(block: dict[str, Any], row: dict[str, Any], columns: list[str]) -> PaperRow:
    metrics = dict(zip(columns, row["values"], strict=True)) | row.get("stated", {})  # given in the text alone
    accuracies = [metrics[key] for key in SEVEN_TASKS if metrics.get(key) is not None]
    derived = []
    if "average_acc" not in metrics and len(accuracies) == len(SEVEN_TASKS):
        metrics["average_acc"] = round(sum(accuracies) / len(accuracies), 4)
        derived = ["average_acc"]
    shared = {name: value for name, value in block.items() if name != "rows"}
    return PaperRow(**shared, method=row["method"], label=row["label"], metrics=metrics, derived=derived)
