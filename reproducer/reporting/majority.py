"""What a run's tasks can tell: its dense models beside the majority class, for which no model is needed."""

from __future__ import annotations

from dataclasses import dataclass

from reproducer.stages.results import Column, Model, Results, Row


@dataclass(frozen=True)
class Tasks:
    """The accuracies of a run by what a model's dense row shows in them.

    Attributes:
        averaged: those that the averages of the model's rows are over.
        no_better: those that are left out: the dense row is not above the majority class.
        close: those in which it is, by no more than a standard error of its accuracy.
        unknown: those that the dense row has not measured; they count in the averages.
        partly: whether some rows measure only some of the averaged ones, and so have no average.
    """

    model: Model
    averaged: list[Column]
    no_better: list[Column]
    close: list[Column]
    unknown: list[Column]
    partly: bool


def majorities(results: Results) -> dict[str, float]:
    """The accuracy of the majority class, by the key of the task's column, where that shows an accuracy."""
    known = {task.name: task.majority for task in results.tasks if task.majority is not None}
    return {column.key: known[column.source] for column in _accuracies(results) if column.source in known}


def tasks_by_model(results: Results) -> list[Tasks]:
    """Of each model of which it was recorded what its averages are over."""
    rates, found = majorities(results), []
    for model in results.models:
        if model.averaged is None:
            continue
        dense = next((row for row in results.rows if (row.model, row.method) == (model.name, "dense")), None)
        measured = dense.metrics if dense is not None else {}  # in a document not every model is measured on all tasks
        accuracies = [one for one in _accuracies(results) if not measured or one.key in measured]
        if not accuracies:
            continue
        known = [one for one in accuracies if dense is not None and dense.metrics.get(one.key) is not None]
        averaged = [one for one in accuracies if one.key in model.averaged]
        found.append(
            Tasks(
                model=model,
                averaged=averaged,
                no_better=[one for one in accuracies if one not in averaged],
                close=[one for one in averaged if one in known and one.key in rates and _close(dense, one, rates)],
                unknown=[one for one in accuracies if one not in known],
                partly=any(row.model == model.name and _measures_some(row, averaged) for row in results.rows),
            )
        )
    return found


def _measures_some(row: Row, columns: list[Column]) -> bool:
    """Some of the columns, and not all; a column without a value counts as measured."""
    return 0 < sum(column.key in row.metrics for column in columns) < len(columns)


def _accuracies(results: Results) -> list[Column]:
    return [column for column in results.columns if column.kind == "accuracy" and column.source is not None]


def _close(dense: Row | None, column: Column, rates: dict[str, float]) -> bool:
    scores = dense.task_scores.get(column.source or "") if dense else None
    error = scores.stderr.get(scores.shown) if scores else None
    value = dense.metrics[column.key] if dense else None
    return error is not None and value is not None and value - rates[column.key] <= error
