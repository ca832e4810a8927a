"""What was measured, as tables: the compact one of a first screen, and all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproducer.reporting.cost import mean_of, seen_columns
from reproducer.reporting.numbers import cut, plus_minus, tuning
from reproducer.reporting.rows import Line, blocks, cells, lines, measuring
from reproducer.reporting.tables import Table
from reproducer.stages.results import Column, Results

Block = list[Line]


def compact(columns: Sequence[Column]) -> list[Column]:
    """The columns of quality, without the single tasks that an average stands for; else all but margins."""
    columns = [column for column in columns if not column.is_margin]
    averages = [column for column in columns if column.kind == "accuracy" and column.source is None]
    accuracies = averages or [column for column in columns if column.kind == "accuracy"]
    return [column for column in columns if column.kind == "perplexity" or column in accuracies] or columns


def further(results: Results, known: Sequence[Block]) -> list[Table]:
    """What the compact table leaves out; of a document, whose first part alone it has, all measures."""
    columns, document = [column for column in results.columns if not column.is_margin], bool(results.parts)
    more = document or compact(columns) != columns
    rates = majorities(results)
    names = {"perplexities": "perplexity", "tasks": "accuracy", "other-measures": "other"}
    by_name = {name: [column for column in columns if column.kind == kind] for name, kind in names.items()}
    wanted = {"perplexities": document, "tasks": more or rates, "other-measures": more}
    return [table_of(known, by_name[name], name, rates) for name in names if wanted[name] and by_name[name]]


def table_of(
    known: Sequence[Block], columns: Sequence[Column], name: str, rates: Mapping[str, float] | None = None
) -> Table:
    """A table of measures, a block for each cut; `rates`: of the majority class, in a row of their own at the end."""
    shown = [block for of in known if (block := measuring(of, [column.key for column in columns]))]
    several = len({line.model for block in shown for line in block}) > 1
    head = ["Model"] * several + ["Ratio", "Tuning"]
    table = Table([*head, "Method", *map(heading, columns)], "l" * (len(head) + 1) + "r", repeated=len(head), name=name)
    for block in shown:
        table.rule()
        by_column = [cells(block, column.key, column) for column in columns]
        for i, line in enumerate(block):
            table.add([*place_of(line, several), _label(line), *(of[i] for of in by_column)])
    known_rates = [rates.get(column.key) if rates else None for column in columns]
    if any(rate is not None for rate in known_rates):
        texts = ["" if rate is None else plus_minus(100 * rate, None) for rate in known_rates]
        table.rule()
        table.add([*["any"] * len(head), "Majority class", *texts])
    return table


def place_of(line: Line, several: bool) -> list[str]:
    """The first cells of a line: its model, if there are several, its ratio and its tuning."""
    return [*[line.model] * several, cut(line), "" if line.method == "dense" else tuning(line)]


def heading(column: Column) -> str:
    return f"{column.label}{' (unseen)' if column.unseen else ''}{'↑' if column.higher_is_better else '↓'}"


def _label(line: Line) -> str:
    transferred = " (transferred)" if "transfer" in line.rows[0].stages else ""
    part = f" ({len(line.done)} of {len(line.rows)} seeds)" if 0 < len(line.done) < len(line.rows) else ""
    return f"{line.label}{transferred}{part}"


def majorities(results: Results) -> dict[str, float]:
    """The accuracy of the majority class, by the key of the task's column, where that shows an accuracy."""
    known = {task.name: task.majority for task in results.tasks if task.majority is not None}
    columns = [column for column in results.columns if column.kind == "accuracy"]
    return {column.key: known[column.source] for column in columns if column.source in known}


def not_averaged(results: Results) -> dict[str, list[str]]:
    """By model the tasks that its average leaves out, as its dense row is not above the majority class."""
    found = {}
    for model in results.models:
        # in a document not every model is measured on all tasks
        keys = {key for row in results.rows if row.model == model.name for key in row.metrics}
        columns = [column for column in results.columns if column.kind == "accuracy" and column.source]
        out = [column.label for column in columns if column.key in keys and column.key not in (model.averaged or [])]
        if model.averaged is not None and out:
            found[model.label] = out
    return found


@dataclass(frozen=True)
class Lead:
    """The line of a cut with the lowest mean perplexity, and the one after it."""

    line: Line
    value: float
    other: Line
    other_value: float


def leads(results: Results) -> list[Lead]:
    """Of each cut with two lines that measure perplexity."""
    columns, found = seen_columns(results), []
    for block in blocks(line for line in lines(results.rows) if line.method != "dense"):
        known = [(mean.mean, i) for i, line in enumerate(block) if (mean := mean_of(line, columns)) is not None]
        if len(known) > 1:
            (value, first), (other, second), *_ = sorted(known)
            found.append(Lead(block[first], value, block[second], other))
    return found
