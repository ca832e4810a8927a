"""What an average is over: the tasks in which the dense model is above the majority class, which needs no model."""

from __future__ import annotations

from dataclasses import dataclass

from reproducer.stages.results import Column, Model, Results


@dataclass(frozen=True)
class Tasks:
    """The accuracies that averages of a model's rows are over, and those left out as its dense row is `no_better`."""

    model: Model
    averaged: list[Column]
    no_better: list[Column]


def majorities(results: Results) -> dict[str, float]:
    """The accuracy of the majority class, by the key of the task's column, where that shows an accuracy."""
    known = {task.name: task.majority for task in results.tasks if task.majority is not None}
    return {column.key: known[column.source] for column in _accuracies(results) if column.source in known}


def tasks_by_model(results: Results) -> list[Tasks]:
    """Of each model of which it was recorded what its averages are over."""
    by_model = []
    for model in results.models:
        # in a document not every model is measured on all tasks
        measured = {key for row in results.rows if row.model == model.name for key in row.metrics}
        accuracies = [column for column in _accuracies(results) if column.key in measured]
        if model.averaged is not None and accuracies:
            averaged = [column for column in accuracies if column.key in model.averaged]
            by_model.append(Tasks(model, averaged, [column for column in accuracies if column not in averaged]))
    return by_model


def _accuracies(results: Results) -> list[Column]:
    return [column for column in results.columns if column.kind == "accuracy" and column.source is not None]
