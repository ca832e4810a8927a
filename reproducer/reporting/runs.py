"""Where a run has what a claim of the paper rests on: its rows, measures and searches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from reproducer.paper.catalogue import load_item, method
from reproducer.paper.claims import RowRef
from reproducer.reporting.bootstrap import Array
from reproducer.reporting.comparison import is_row, plain, stands_for
from reproducer.reporting.cost import seen_columns
from reproducer.reporting.rows import Line, lines
from reproducer.stages.results import Column, Results, Row, Search


@dataclass(frozen=True)
class PairedScores:
    """Scores of a row and of its baseline: one array [seeds, items, 2] a column, of one item where no more is known."""

    seeds: tuple[int, ...]
    pairs: list[Array]


class Run:
    """A run, as claims ask for it."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.lines = lines(results.rows)

    def line(self, ref: RowRef, recovery: str | None = None) -> Line | None:
        """Our rows of a row of the paper; `recovery`: of ours, where it is another than the paper's."""
        printed = ref.row()
        if recovery is not None:
            printed = printed.model_copy(update={"recovery": recovery})
        models = stands_for(self.results, load_item(ref.item))
        alike = [line for line in self.lines if is_row(line, printed, models)]
        named = alike if printed.method == "dense" else [one for one in alike if plain(one.label) == plain(ref.label)]
        return next(iter(named), None)

    def dense(self, line: Line) -> Line | None:
        """The dense model that a line was pruned from."""
        ours = (line.model, "dense")
        return next((other for other in self.lines if (other.model, other.method) == ours), None)

    def searched_otherwise(self, line: Line) -> bool:
        """Whether a row of the paper's own method was not searched as the paper searches."""
        own = [search for search in self.results.searches if search.label == line.label]
        return line.method == method().name and any(search.settings.get("mode") != "paper" for search in own)

    def searches(self, label: str) -> dict[int, Search]:
        """The searches of a label by seed, also where the results name them by another row that shares them."""
        keys = [(row.label, key) for row in self.results.rows if (key := row.stages.get("search"))]
        own = {key for name, key in keys if name == label}
        labels = {label, *(name for name, key in keys if key in own)}
        return {search.seed: search for search in self.results.searches if search.label in labels}

    @cached_property
    def accuracies(self) -> dict[str, list[Column]]:
        """By model the accuracies that its averages are over."""
        columns = [column for column in self.results.columns if column.kind == "accuracy" and column.source]
        return {
            model.name: [column for column in columns if model.averaged is None or column.key in model.averaged]
            for model in self.results.models
        }

    def measures(self, name: str, line: Line) -> list[tuple[str, list[Column]]]:
        """A measure of a claim as groups of columns whose mean is compared, each with its label; empty: none of it."""
        accuracies = self.accuracies.get(line.model, [])
        if name == "tasks":
            return [(column.label, [column]) for column in accuracies]
        if name == "average_acc":
            return [("average", accuracies)] if accuracies else []
        if name == "perplexity":
            columns = seen_columns(self.results)
            return [("perplexity", columns)] if columns else []
        return [(column.label, [column]) for column in self.results.columns if column.key == name]

    def pair(self, line: Line, other: Line, columns: Sequence[Column]) -> PairedScores | None:
        """The scores of two lines on the seeds of both; a dense line is the same for every seed."""
        ours, theirs = (
            {row.seed: row for row in side.rows if all(row.metrics.get(c.key) is not None for c in columns)}
            for side in (line, other)
        )
        if other.method == "dense" and theirs:
            theirs = dict.fromkeys(ours, next(iter(theirs.values())))
        seeds = tuple(sorted(ours.keys() & theirs.keys()))
        if not seeds or not columns:
            return None
        rows = [(ours[seed], theirs[seed]) for seed in seeds]
        pairs = [_paired(rows, column) for column in columns]
        return PairedScores(seeds, pairs)


def _paired(rows: Sequence[tuple[Row, Row]], column: Column) -> Array:
    """[seeds, items, 2]; of one item, the metric, where the rows do not hold the same items."""
    scores = [[_scores(row, column) for row in pair] for pair in rows]
    keys = scores[0][0].keys()
    if keys and all(of_row.keys() == keys for pair in scores for of_row in pair):
        return np.array([[[of_row[key] for of_row in pair] for key in keys] for pair in scores])
    return np.array([[[_metric(row, column) for row in pair]] for pair in rows])


def _scores(row: Row, column: Column) -> dict[Any, float]:
    """By item: its score, a loss in nats for a perplexity; empty where single items are not known."""
    if column.kind == "perplexity":
        return dict(enumerate(row.window_losses.get(column.key, [])))
    task = row.task_scores.get(column.source or "")
    items = task.items if task else []
    return {item.id: item.scores[column.score] for item in items if column.score in item.scores}


def _metric(row: Row, column: Column) -> float:
    value = row.metrics[column.key]
    assert value is not None  # rows without it are no part of a comparison
    return math.log(value) if column.kind == "perplexity" else value
