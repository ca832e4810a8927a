"""What rules give: comparisons with effects and intervals, and what a run lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reproducer.paper.catalogue import load_item
from reproducer.paper.claims import RowRef
from reproducer.reporting.bootstrap import LEVEL, Interval
from reproducer.reporting.rows import CUT, Line
from reproducer.reporting.runs import Run

Unit = Literal["points", "per cent", "times", "trials"]
Why = Literal["no rows", "not run", "failed", "not the paper's row", "few trials", "no measure"]


@dataclass(frozen=True)
class Missing:
    """A row or measure that the run does not have, and why; `where`: the paper's table of a row, and its tuning."""

    name: str
    why: Why
    where: str = ""


@dataclass(frozen=True)
class Evidence:
    """One comparison that a verdict rests on.

    Attributes:
        row, baseline: labels of our rows; `baseline` None where a row is held against nothing.
        model, ratio, structure_ratio, recovery, recovery_label: of our row.
        measure: what is compared, a column's label or `average`. seeds: those that are paired.
        paper, ours, interval: in the verdict's unit; no interval: nothing is known of the spread.
        p: two-sided, not corrected.
        favour: its distance from the threshold in standard errors, positive as the claim has it.
    """

    row: str
    baseline: str | None
    model: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    recovery_label: str | None
    measure: str
    seeds: tuple[int, ...]
    paper: float | None
    ours: float
    interval: Interval | None
    p: float | None
    favour: float

    @property
    def significant(self) -> bool:
        """By itself, without a correction."""
        return self.p is not None and self.p < LEVEL


@dataclass
class RuleOutcome:
    """What a rule makes of a claim and a run.

    Attributes:
        unit, favourable, threshold: of the effects; `favourable`: whether a larger or a smaller one is claimed.
        paper: the paper's effect, where there is no comparison.
        tuned: the claim is about tuned rows. stand_in: untuned rows stand in for its tuned ones.
    """

    unit: Unit
    favourable: Literal["higher", "lower"]
    threshold: float
    evidence: list[Evidence] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    paper: float | None = None
    tuned: bool = False
    stand_in: bool = False

    def lacks(self, *missing: Missing) -> None:
        """Note what the run does not have, each once."""
        self.missing += [lack for lack in missing if lack not in self.missing]


def missing_rows(
    refs: Sequence[RowRef], lines: Sequence[Line | None], run: Run, recovery: str | None = None
) -> list[Missing]:
    """Of the paper's rows those that the run lacks; `recovery`: that of our rows, where it is not the paper's."""
    missing: list[Missing] = []
    for ref, line in zip(refs, lines, strict=True):
        where = f"{load_item(ref.item).item}, {'untuned' if (recovery or ref.recovery) == 'none' else 'tuned'}"
        if line is None:
            missing.append(Missing(ref.label, "no rows", where))
        elif not line.measured:
            missing.append(Missing(ref.label, "failed" if line.status == "failed" else "not run", where))
        elif run.searched_otherwise(line):
            missing.append(Missing(ref.label, "not the paper's row", where))
    return missing


def measure_name(measure: str) -> str:
    """A measure of the paper in words."""
    named = {"average_acc": "average accuracy", "tasks": "accuracies"}
    return named.get(measure) or measure.removesuffix("_ppl").replace("_", " ")


def cut_of(line: Line) -> dict[str, Any]:
    """Model, cut and recovery of a row, as fields of `Evidence`."""
    return {name: getattr(line, name) for name in CUT}
