"""The paper's item beside our rows: the part `paper` of results.json, in the paper's units."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reproducer.facts import Facts
from reproducer.paper.catalogue import PrintedText, Slip


class Place(Facts):
    """A row without its seed."""

    model: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    recovery_label: str | None = None
    label: str


class PaperCell(Facts):
    """A metric of the paper's row and of ours, in the paper's units: perplexities, and accuracies in percent.

    `ours` is the mean over seeds. `…_relative`: an accuracy minus the dense row's, anything else as a multiple of it.
    """

    paper: float | None = None
    ours: float | None = None
    paper_relative: float | None = None
    ours_relative: float | None = None


class ComparedRow(Place):
    """One of our rows and its partner in the paper; `status` is `done` with one finished seed at least."""

    method: str
    paper_model: str
    paper_label: str
    status: Literal["done", "failed", "missing"]
    cells: dict[str, PaperCell]


class PaperComparison(Facts):
    """The paper's item and our rows.

    Attributes:
        in_kind: another model stands in the place of the paper's: only what is relative to its dense row compares.
        models: the paper's model by ours.
        only_paper: rows without a partner.
        any_method: what is measured does not depend on which method pruned.
        quotes: what the paper says of it.
    """

    item: str
    caption: str
    in_kind: bool
    models: dict[str, str]
    rows: list[ComparedRow]
    only_paper: list[Place]
    any_method: bool = False
    slips: list[Slip] = Field(default_factory=list)
    quotes: list[str] = Field(default_factory=list)
    generations: list[PrintedText] = Field(default_factory=list)
