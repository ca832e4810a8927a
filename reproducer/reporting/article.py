"""The article of a report: everything that its templates tell, computed once from the results and the paper."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from reproducer.evaluation.measured import Measured
from reproducer.paper import paper
from reproducer.paper.claims import ModelConditions
from reproducer.reporting import comparison, cost, gguf, majority, searches, speed
from reproducer.reporting.controls import ControlEffect, control_effects, control_rows, controls
from reproducer.reporting.deviations import Deviation, deviations
from reproducer.reporting.escape import one_line
from reproducer.reporting.figures import Picture
from reproducer.reporting.generations import section as generations
from reproducer.reporting.rows import (
    CUT,
    Estimate,
    Line,
    blocks,
    cells,
    estimate,
    grouped,
    lines,
    measuring,
    with_results,
)
from reproducer.reporting.tables import Cell
from reproducer.reporting.transfers import Transfer, transfers
from reproducer.reporting.verdicts import Verdict, first_screen, verdicts
from reproducer.stages.compared import Order, PaperComparison
from reproducer.stages.results import Baseline, Column, Results, Row, Search

SECTIONS: list[Callable[[Results], str | None]] = [speed.section, gguf.section, generations]
"""What the measures of this package add to the report after its tables: Markdown, or None where there is nothing."""

Block = list[Line]


@dataclass(frozen=True)
class SearchSummary:
    """A search, and what its record says.

    Attributes:
        rival: the best of its baselines. gap: how far, as a share of it, the search's best is below it.
        trials: that count. states: how many trials ended in each state.
        settled: the trials until the best so far was near the final one.
        varied: whether the method's own parameters were searched too.
        importances: parameters, numbered ones together, with their share, the largest first.
    """

    search: Search
    rival: Baseline | None
    gap: float | None
    trials: int
    states: Mapping[str, int]
    settled: int | None
    varied: bool
    candidates: Sequence[searches.Candidate]
    importances: Sequence[tuple[list[str], float]]


@dataclass(frozen=True)
class SearchGroup:
    """Searches that differ in the seed alone: the first, and means over seeds."""

    first: SearchSummary
    seeds: int
    best: Estimate
    gap: Estimate | None
    settled: float | None
    seconds: float


@dataclass(frozen=True)
class Compared:
    """A run, or a part of a document, beside an item of the paper.

    Attributes:
        columns: of which the paper prints something in these rows.
        orders: a place with Kendall's tau of the paper's order of methods and ours, by metric.
        measured: whether any pruned row of ours has a value.
    """

    run: Results
    columns: Sequence[Column]
    orders: Sequence[tuple[Order, Mapping[str, float]]]
    measured: bool


@dataclass(frozen=True)
class TableRow:
    """A line of a block in a table of measures; `first`: it begins the block."""

    line: Line
    cells: Sequence[Cell]
    first: bool


@dataclass(frozen=True)
class Measures:
    """A table of measures."""

    columns: Sequence[Column]
    rows: Sequence[TableRow]


@dataclass(frozen=True)
class Article:
    """What a report tells.

    Attributes:
        results: with the paper's numbers attached. compared: the run and its parts that the paper has numbers of.
        command: that runs this again.
        verdicts, deviations: of the paper's claims, and of the run from the paper.
        blocks: the lines of each cut that have results; left_out: how many lines have none.
        main: the first table; of a document with the rows of its first part. measures: the further ones, by name.
        uneven: of each block the lines that lost another share of the parameters than the others.
        unfinished, missing: rows that differ in the seed alone, of which a part or nothing has run.
        no_better: by model the columns in which its dense row is not above the majority class.
        sections: what measures add, in Markdown.
        pictures: the figures that were drawn.
    """

    results: Results
    compared: Sequence[Compared]
    title: str
    command: str
    verdicts: Sequence[Verdict]
    deviations: Sequence[Deviation]
    standings: Sequence[comparison.Standing]
    blocks: Sequence[Block]
    left_out: int
    main: Measures
    main_blocks: Sequence[Block]
    measures: Mapping[str, Measures]
    failed: Sequence[Row]
    unfinished: Sequence[Sequence[Row]]
    missing: Sequence[Sequence[Row]]
    tasks: Sequence[majority.Tasks]
    majorities: Mapping[str, float]
    labels: Mapping[str, str]
    controls: Sequence[str]
    control_blocks: Sequence[Block]
    control_effects: Sequence[ControlEffect]
    searches: Sequence[SearchSummary]
    search_groups: Sequence[SearchGroup]
    transfers: Sequence[Transfer]
    whole_costs: Sequence[cost.WholeCost]
    sections: Sequence[str]
    paper_models: Mapping[str, ModelConditions]
    pictures: Sequence[Picture] = ()

    @property
    def rows(self) -> Sequence[Row]:
        return self.results.rows

    @property
    def recovery_labels(self) -> dict[str, str | None]:
        return {row.recovery: row.recovery_label for row in self.rows}

    @property
    def several(self) -> bool:
        """Whether there are several models."""
        return len({row.model for row in self.rows}) > 1

    @property
    def seeded(self) -> bool:
        """Whether there are several seeds."""
        return len({row.seed for row in self.rows}) > 1

    @property
    def first_verdicts(self) -> list[tuple[int, Verdict]]:
        """The verdicts of the first screen, with their numbers."""
        return first_screen(self.verdicts)

    @property
    def key_picture(self) -> Picture | None:
        """The figure of the first screen: what the paper's item is about or, where it is none, the first there is."""
        item = comparison.item_of(self.results)
        kinds = ["perplexity", "accuracy", "histories", "cost", "training"]
        if item is not None and item.trials_to_converge:
            kinds.insert(0, "histories")
        elif item is not None and item.columns and all(key.endswith("_acc") for key in item.columns):
            kinds.insert(0, "accuracy")
        if sum(verdict.ours is not None for verdict in self.verdicts) > 1:
            kinds.insert(0, "claims")
        return next((picture for kind in kinds for picture in self.pictures if picture.kind == kind), None)


def article(results: Results) -> Article:
    """What there is to tell of a run, the figures not drawn yet."""
    parts = [part.model_copy(update={"paper": comparison.compare(results.of_part(part))}) for part in results.parts]
    results = results.model_copy(update={"paper": comparison.compare(results), "parts": parts})
    first = results.of_part(parts[0]) if parts else results
    every, known_paper = lines(results.rows), paper()
    known = blocks(with_results(every))
    main_blocks = blocks(with_results(lines(first.rows))) if parts else known
    unfinished = [row for row in results.rows if row.status == "missing" and row.has_metrics]
    missing = [row for row in results.rows if row.status == "missing" and not row.has_metrics]
    tasks, summaries = majority.tasks_by_model(results), [*map(_search, results.searches)]
    return Article(
        results=results,
        compared=[
            _compared(run, run.paper) for run in (results, *map(results.of_part, parts)) if run.paper is not None
        ],
        title=title_of(results),
        command=command_of(results),
        verdicts=verdicts(results, known_paper),
        deviations=deviations(results, known_paper),
        standings=comparison.standings(results),
        blocks=known,
        left_out=len(every) - sum(map(len, known)),
        main=_measures(main_blocks, compact(first.columns)),
        main_blocks=main_blocks,
        measures=_further(results, known, tasks, whole=not parts),
        failed=[row for row in results.rows if row.status == "failed"],
        unfinished=[line.rows for line in lines(unfinished)],
        missing=[line.rows for line in lines(missing)],
        tasks=tasks,
        majorities=majority.majorities(results),
        labels={column.key: column.label for column in results.columns},
        controls=controls(results),
        control_blocks=blocks(with_results(lines(control_rows(results)))),
        control_effects=control_effects(results),
        searches=summaries,
        search_groups=_groups(summaries),
        transfers=transfers(results),
        whole_costs=cost.whole_costs(results),
        sections=_sections(results),
        paper_models=known_paper.conditions.models,
    )


def _compared(run: Results, printed: PaperComparison) -> Compared:
    columns = [
        column
        for column in run.columns
        if any(column.key in row.cells and row.cells[column.key].paper is not None for row in printed.rows)
    ]
    orders = grouped(printed.orders, lambda order: tuple(getattr(order, name) for name in CUT))
    pruned = [cell for row in printed.rows if row.method != "dense" for cell in row.cells.values()]
    return Compared(
        run,
        columns,
        [(group[0], {order.metric: order.tau for order in group}) for group in orders],
        any(cell.ours is not None for cell in pruned),
    )


def compact(columns: Sequence[Column]) -> list[Column]:
    """The columns of quality, without the single tasks that an average stands for; else all but margins."""
    columns = [column for column in columns if not column.is_margin]
    averages = [column for column in columns if column.kind == "accuracy" and column.source is None]
    accuracies = averages or [column for column in columns if column.kind == "accuracy"]
    return [column for column in columns if column.kind == "perplexity" or column in accuracies] or columns


def _further(
    results: Results, known: Sequence[Block], tasks: Sequence[majority.Tasks], whole: bool
) -> dict[str, Measures]:
    """What the main table leaves out; `whole`: it has all rows."""
    columns = [column for column in results.columns if not column.is_margin]
    names = {column.source: column.label for column in columns}
    margins = [
        column.model_copy(
            update={"label": names.get(column.source, column.label)}
        )  # the table says that it is of margins
        for column in results.columns
        if column.is_margin
    ]
    perplexities, accuracies, others = (
        [column for column in columns if column.kind == kind] for kind in ("perplexity", "accuracy", "other")
    )
    more = not whole or compact(columns) != columns
    shown = {
        "perplexities": [] if whole else perplexities,
        "tasks": accuracies if more or margins or majority.majorities(results) else [],
        "other-measures": others if more else [],
        "margins": margins,
    }
    return {name: _measures(known, of, () if name == "margins" else tasks) for name, of in shown.items() if of}


def _measures(known: Sequence[Block], columns: Sequence[Column], tasks: Sequence[majority.Tasks] = ()) -> Measures:
    """The measures of some blocks; an asterisk marks a dense row that is not above the majority class."""
    no_better = {(one.model.name, column.key) for one in tasks for column in one.no_better}
    rows = []
    for block in known:
        block = measuring(block, [column.key for column in columns])
        by_column = [cells(block, column.key, column) for column in columns]
        for i, line in enumerate(block):
            row = [of[i] for of in by_column]
            for j, column in enumerate(columns):
                if line.method == "dense" and (line.model, column.key) in no_better:
                    row[j] = Cell(f"{row[j].text}*")
            rows.append(TableRow(line, row, i == 0))
    return Measures(columns, rows)


def _sections(results: Results) -> list[str]:
    """What measures add: those of this package, then each kind of result by its own `section`."""
    sections = [section(results) for section in SECTIONS]
    by_kind: dict[type[Measured], list[tuple[str, Any]]] = {}
    for row in results.rows:
        for measured in row.measured.values():
            by_kind.setdefault(type(measured), []).append((row.label, measured))
    sections += [kind.section(measured) for kind, measured in by_kind.items()]
    return [section for section in sections if section]


def _search(search: Search) -> SearchSummary:
    return SearchSummary(
        search,
        rival=searches.rival(search),
        gap=searches.gap(search),
        trials=searches.counted(search),
        states=searches.states(search),
        settled=searches.settled(search),
        varied=searches.searches_metric(search),
        candidates=searches.candidates(search),
        importances=searches.importances(search),
    )


def _groups(summaries: Sequence[SearchSummary]) -> list[SearchGroup]:
    of = {id(one.search): one for one in summaries}
    groups = []
    for alike in searches.alike([one.search for one in summaries]):
        members = [of[id(search)] for search in alike]
        best = estimate([search.best.value for search in alike])
        assert best is not None
        settled = [one.settled for one in members if one.settled is not None]
        groups.append(
            SearchGroup(
                members[0],
                seeds=len(members),
                best=best,
                gap=estimate([one.gap for one in members if one.gap is not None]),
                settled=fmean(settled) if settled else None,
                seconds=fmean(search.seconds for search in alike),
            )
        )
    return groups


def title_of(results: Results) -> str:
    """The spec's title with the models that ran in the place of the paper's."""
    title = str(results.spec.get("title") or results.spec["name"])
    for model in results.models:
        if model.stands_for:
            label = model.label.replace("\\", r"\\")  # as it is
            title = re.sub(re.escape(model.stands_for), label, title, flags=re.IGNORECASE)
    missing = list(dict.fromkeys(one.label for one in results.models if one.label.lower() not in title.lower()))
    if len(missing) > 2:
        missing[1:] = [f"{len(missing) - 1} others"]
    return one_line(f"{title} ({'; '.join(missing)})" if missing else title)


def command_of(results: Results) -> str:
    """The command that runs this again: its own, if it is known, else the spec's name and profiles."""
    options = [part for name in results.profile for part in ("--profile", name)]
    return one_line(shlex.join(results.command or ["reproduce", f"specs/{results.spec['name']}.yaml", *options]))
