"""The article of a report: everything that its templates tell, computed once from the results and the paper."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reproducer.evaluation.measured import Measured
from reproducer.paper.catalogue import method
from reproducer.paper.claims import paper
from reproducer.reporting import gguf, speed
from reproducer.reporting.comparison import compare, paper_table
from reproducer.reporting.controls import ControlLine, control_blocks, controls
from reproducer.reporting.cost import seen_columns, unseen_columns
from reproducer.reporting.deviations import Deviation, deviations
from reproducer.reporting.escape import one_line
from reproducer.reporting.figures import Picture
from reproducer.reporting.generations import section as generations
from reproducer.reporting.measures import Block, Lead, compact, further, leads, not_averaged, table_of
from reproducer.reporting.rows import blocks, grouped, lines, with_results
from reproducer.reporting.searches import SearchLine, alike, summarised
from reproducer.reporting.tables import Table
from reproducer.reporting.verdicts import Verdict, first_screen, verdicts
from reproducer.stages.compared import PaperComparison
from reproducer.stages.results import Model, Results, Row

SECTIONS: list[Callable[[Results], str | None]] = [speed.section, gguf.section, generations]
"""What the measures of this package add to the report after its tables: Markdown, or None where there is nothing."""


@dataclass(frozen=True)
class Article:
    """What a report tells.

    Attributes:
        results: with the paper's numbers attached. command: that runs this again.
        own_label: of the paper's method. stand_ins: models with the labels of those that they stand for.
        compared: the items of the paper beside what was measured, with a table where they have numbers in common.
        verdicts, deviations: of the paper's claims, and of the run from the paper.
        leads, main: the best of each cut, and the first table; of a document for the rows of its first part.
        blocks: the lines of each cut that have results; left_out: how many lines have none.
        measures: the further tables. not_averaged: by model the tasks that its average leaves out.
        failed: rows. unfinished: groups that differ in the seed alone, of which a part or nothing has run.
        searches: those alike together; each_search: one by one.
        sections: what measures add, in Markdown.
        pictures: the figures that were drawn.
    """

    results: Results
    title: str
    command: str
    own_label: str
    stand_ins: Sequence[tuple[Model, str]]
    compared: Sequence[tuple[PaperComparison, Table | None]]
    verdicts: Sequence[Verdict]
    deviations: Sequence[Deviation]
    leads: Sequence[Lead]
    main: Table
    blocks: Sequence[Block]
    left_out: int
    measures: Sequence[Table]
    not_averaged: Mapping[str, Sequence[str]]
    failed: Sequence[Row]
    unfinished: Sequence[Sequence[Row]]
    controls: Sequence[str]
    control_blocks: Sequence[Sequence[ControlLine]]
    searches: Sequence[SearchLine]
    each_search: Sequence[SearchLine]
    sections: Sequence[str]
    seen: Sequence[str]
    unseen: Sequence[str]
    pictures: Sequence[Picture] = ()

    @property
    def rows(self) -> Sequence[Row]:
        return self.results.rows

    @property
    def several(self) -> bool:
        """Whether there are several models."""
        return len({row.model for row in self.rows}) > 1

    @property
    def seeds(self) -> list[int]:
        return sorted({row.seed for row in self.rows})

    @property
    def first_verdicts(self) -> list[Verdict]:
        """The verdicts of the first screen."""
        return first_screen(self.verdicts)

    @property
    def informed(self) -> list[ControlLine]:
        """What had the search's texts or its compute, and how the paper's own method compares with it."""
        return [one for block in self.control_blocks for one in block if one.informed and one.effect]

    @property
    def labels(self) -> dict[str, str]:
        """Of columns by their keys, and of recoveries by their names."""
        recoveries = {row.recovery: row.recovery_label or row.recovery for row in self.rows}
        return recoveries | {column.key: column.label for column in self.results.columns}

    @property
    def key_picture(self) -> Picture | None:
        """The figure of the first screen."""
        kinds = ("perplexity", "accuracy", "histories")
        return next((picture for kind in kinds for picture in self.pictures if picture.kind == kind), None)


def article(results: Results) -> Article:
    """What there is to tell of a run, the figures not drawn yet."""
    parts = [part.model_copy(update={"paper": compare(results.of_part(part))}) for part in results.parts]
    results = results.model_copy(update={"paper": compare(results), "parts": parts})
    first = results.of_part(parts[0]) if parts else results
    every, labels = lines(results.rows), paper().models
    known = blocks(with_results(every))
    unfinished = [row for row in results.rows if row.status == "missing"]
    return Article(
        results=results,
        title=title_of(results),
        command=command_of(results),
        own_label=method().label,
        stand_ins=[(one, labels.get(one.stands_for, one.stands_for)) for one in results.models if one.stands_for],
        compared=[
            (run.paper, paper_table(run.paper, run.columns, bool(parts)))
            for run in (results, *map(results.of_part, parts))
            if run.paper is not None
        ],
        verdicts=verdicts(results, paper()),
        deviations=deviations(results),
        leads=leads(first),
        main=table_of(blocks(with_results(lines(first.rows))), compact(first.columns), "results"),
        blocks=known,
        left_out=len(every) - sum(map(len, known)),
        measures=further(results, known),
        not_averaged=not_averaged(results),
        failed=[row for row in results.rows if row.status == "failed"],
        unfinished=[line.rows for of in grouped(unfinished, lambda row: row.has_metrics) for line in lines(of)],
        controls=controls(results),
        control_blocks=control_blocks(results),
        searches=[summarised(group) for group in alike(results.searches)],
        each_search=[summarised([search]) for search in results.searches],
        sections=_sections(results),
        seen=[column.label for column in seen_columns(first)],
        unseen=[column.label for column in unseen_columns(results)],
    )


def _sections(results: Results) -> list[str]:
    """What measures add: those of this package, then each kind of result by its own `section`."""
    sections = [section(results) for section in SECTIONS]
    by_kind: dict[type[Measured], list[tuple[str, Any]]] = {}
    for row in results.rows:
        for measured in row.measured.values():
            by_kind.setdefault(type(measured), []).append((row.label, measured))
    sections += [kind.section(measured) for kind, measured in by_kind.items()]
    return [section for section in sections if section]


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
