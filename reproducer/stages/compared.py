"""The paper's item beside our rows: the part `paper` of results.json, in the paper's units."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reproducer.facts import Facts
from reproducer.paper import PrintedText, Slip


class Cut(Facts):
    """What rows share that are compared with each other: model, cut and recovery."""

    model: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    recovery_label: str | None = None


class Place(Cut):
    """A row without its seed."""

    label: str


class PaperCell(Facts):
    """A metric of the paper's row and of ours, in the paper's units: perplexities, and accuracies in percent.

    `ours` is the mean over seeds, a difference ours minus the paper's; `…_from_dense` is minus the dense row's value,
    `…_over_dense` a multiple of it (not of accuracies).
    """

    paper: float | None = None
    ours: float | None = None
    difference: float | None = None
    paper_from_dense: float | None = None
    ours_from_dense: float | None = None
    difference_from_dense: float | None = None
    paper_over_dense: float | None = None
    ours_over_dense: float | None = None


class ComparedRow(Place):
    """One of our rows and its partner in the paper; `status` is `done` with one finished seed at least.

    `stated`: metrics that the paper's text gives and its table does not; `derived`: computed from its printed cells.
    """

    method: str
    paper_model: str
    paper_label: str
    status: Literal["done", "failed", "missing"]
    stated: list[str] = Field(default_factory=list)
    derived: list[str] = Field(default_factory=list)
    cells: dict[str, PaperCell]


class Order(Cut):
    """Kendall's tau-b between the paper's order of `methods` methods and ours, by one metric."""

    metric: str
    methods: int
    tau: float


class PaperComparison(Facts):
    """The paper's item and our rows.

    Attributes:
        in_kind: another model stands in the place of the paper's: only what is relative to its dense row compares.
        models: the paper's model by ours.
        only_paper, only_ours: rows without a partner.
        any_method: what is measured does not depend on which method pruned.
        quotes: what the paper says of it.
    """

    item: str
    caption: str
    in_kind: bool
    models: dict[str, str]
    rows: list[ComparedRow]
    only_paper: list[Place]
    only_ours: list[Place]
    orders: list[Order]
    any_method: bool = False
    slips: list[Slip] = Field(default_factory=list)
    quotes: list[str] = Field(default_factory=list)
    generations: list[PrintedText] = Field(default_factory=list)
