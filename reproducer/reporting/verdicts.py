"""What the run says of each claim of the paper: a verdict by the claim's own rule, with its effect and its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reproducer.paper import Paper
from reproducer.stages.results import Results

Outcome = Literal["supported", "contradicted", "inconclusive", "not tested"]
Unit = Literal["points", "per cent", "times", "tasks", "trials", "billion"]
Reason = Literal["no rows", "not the paper's row", "few trials", "no measure", "few seeds", "interval"]


@dataclass(frozen=True)
class Difference:
    """A condition under which the run differs from the paper: what, the paper's value, ours, as they will read."""

    item: str
    paper: str
    ours: str


Deviation = Difference


@dataclass(frozen=True)
class Needs:
    """What it would take to test a claim. `hours`: of this machine, at what rows took here; None: nothing to go by."""

    model: str
    trials: int | None
    seeds: int
    hours: float | None


@dataclass(frozen=True)
class Evidence:
    """One comparison that a verdict rests on.

    Attributes:
        row, baseline: labels of our rows; `baseline` None where a row is not compared, or with the dense model alone.
        model, cut, recovery: which model, cut (as a heading reads) and recovery's name the rows are of.
        measure: what is compared: a column's label, or an average's.
        columns: keys of the columns behind it.
        seeds: those that are paired. items: items or windows behind the interval, of all columns; 0: seeds alone.
        paper, ours, low, high: in the verdict's unit.
        p: two-sided, not corrected; None without an interval.
        conditional: of one seed: `low` and `high` are over the items of one pruned model, and no verdict rests on them.
    """

    row: str
    baseline: str | None
    model: str
    cut: str
    recovery: str
    measure: str
    columns: tuple[str, ...]
    seeds: tuple[int, ...]
    items: int
    paper: float | None
    ours: float | None
    low: float | None
    high: float | None
    p: float | None
    conditional: bool


@dataclass(frozen=True)
class Verdict:
    """What the run says of a claim.

    Attributes:
        claim: its id. text: what is claimed, a sentence. where: in the paper, such as `abstract` or `Table 1`.
        item: the key of the paper's item, such as `table1`. headline: one of the abstract's.
        on: the label of our model that it was judged on; in_kind: it is another than the paper's.
        outcome, reason: `reason` says why it is inconclusive or not tested; None of the others.
        unit, favourable: of the effects; whether a larger (`higher`) or a smaller effect is what the paper claims.
        threshold: what the effect is held against: 0 of a difference, 96.5 of "97 per cent".
        paper, ours, low, high: effects; the interval has 95 per cent. Of several comparisons, the least favourable.
        p, p_holm: two-sided p of `ours` against `threshold`; corrected over the claims of the report.
        seeds, seeds_needed: paired seeds behind the effect, and how many the rule asks for.
        detectable: the smallest distance from `threshold` that this run would have found in four of five repetitions.
        needs: of one that is not tested, or has too few seeds.
        conditions: what differs from the paper's conditions.
        evidence: the comparisons behind it.
    """

    claim: str
    text: str
    where: str
    item: str
    headline: bool
    on: str | None
    in_kind: bool
    outcome: Outcome
    reason: Reason | None
    unit: Unit
    favourable: Literal["higher", "lower"]
    threshold: float
    paper: float | None
    ours: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    seeds: int
    seeds_needed: int
    detectable: float | None
    needs: Needs | None
    conditions: tuple[Difference, ...]
    evidence: tuple[Evidence, ...]


def verdicts(results: Results, paper: Paper) -> list[Verdict]:
    """A verdict on each claim of the items that the spec reproduces, in the paper's order."""
    return []


def deviations(results: Results, paper: Paper) -> list[Deviation]:
    """What the run does otherwise than the paper, from the spec as it was run and what the paper states."""
    return []
