"""Rules that compare a row with others (`better`, `most`) or the dense model (`retains`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from reproducer.paper.catalogue import SEVEN_TASKS, PaperRow, load_item
from reproducer.paper.claims import Claim, RowRef
from reproducer.reporting.bootstrap import Statistic, interval
from reproducer.reporting.rows import Line
from reproducer.reporting.rules.effects import log_ratio, mapped, percent_change, points, share, share_above
from reproducer.reporting.rules.evidence import Evidence, Missing, RuleOutcome, cut_of, measure_name, missing_rows
from reproducer.reporting.runs import Run
from reproducer.stages.results import Column


@dataclass(frozen=True)
class Effect:
    """How two rows are compared.

    Attributes:
        statistic: of their scores.
        shown: a value of the statistic in the outcome's unit; None: as it is.
        limits: of what is shown.
    """

    statistic: Statistic
    shown: Callable[[float], float] | None = None
    limits: tuple[float, float] | None = None


def better(run: Run, claim: Claim) -> RuleOutcome:
    """By how much each row is better than what it is held against: points of accuracy, per cent of perplexity."""
    if all(name.endswith("ppl") or name == "perplexity" for name in claim.measures):
        outcome, effect = RuleOutcome("per cent", "lower", 0.0), Effect(log_ratio, percent_change)
    else:
        outcome, effect = RuleOutcome("points", "higher", 0.0), Effect(points)
    return _each_pair(run, claim, outcome, effect)


def most(run: Run, claim: Claim) -> RuleOutcome:
    """On how many of the tasks each row is better."""
    effect = Effect(share_above, limits=(0.0, 100.0))
    return _each_pair(run, claim, RuleOutcome("per cent", "higher", 50.0), effect, together=True)


def _each_pair(run: Run, claim: Claim, outcome: RuleOutcome, effect: Effect, together: bool = False) -> RuleOutcome:
    """Each row with each that it is held against, on each measure; `together`: on a measure's columns at once."""
    refs = list(dict.fromkeys(ref for pair in claim.pairs for ref in pair))
    outcome.stand_in = _stand_in(run, claim)
    recovery = "none" if outcome.stand_in else None
    outcome.tuned = recovery is None and all(ref.recovery != "none" for ref in refs)
    printed: list[float] = []
    for ref, other in claim.pairs:
        line, against = (run.line(side, recovery) for side in (ref, other))
        gone = missing_rows((ref, other), (line, against), run, recovery)
        for name in claim.measures:
            paper = _printed(effect, ref.row(), other.row(), name)
            if paper is None and name != "tasks":
                continue  # the paper prints no such number of this row, so it claims nothing of it
            printed += [] if paper is None else [paper]
            if gone or line is None or against is None:
                outcome.lacks(*gone)
                continue
            measures = run.measures(name, line)
            if together and measures:
                measures = [(name, [column for _, columns in measures for column in columns])]
            compared = []
            for label, columns in measures:
                key = columns[0].key if name == "tasks" and not together else name
                theirs = _printed(effect, ref.row(), other.row(), key)
                compared.append(_compare(run, line, against, label, columns, outcome, effect, theirs))
            outcome.evidence += filter(None, compared)
            if not compared or None in compared:
                outcome.lacks(Missing(measure_name(name), "no measure"))
    outcome.paper = (min if outcome.favourable == "higher" else max)(printed, default=None)
    return outcome


def _stand_in(run: Run, claim: Claim) -> bool:
    """Whether untuned rows stand in for the tuned ones of a claim: the run can compare more of them."""

    def comparable(recovery: str | None) -> int:
        lines = [[run.line(ref, recovery) for ref in pair] for pair in claim.pairs]
        return sum(all(line is not None and line.measured for line in pair) for pair in lines)

    return claim.untuned and comparable(None) < comparable("none")


def _compare(
    run: Run,
    line: Line,
    other: Line,
    label: str,
    columns: list[Column],
    outcome: RuleOutcome,
    effect: Effect,
    paper: float | None,
) -> Evidence | None:
    """Two rows on the mean of some columns; None where the run has them on no common seed."""
    scores = run.pair(line, other, columns)
    if scores is None:
        return None
    estimated = interval(scores.pairs, effect.statistic, outcome.threshold)
    known = len(scores.seeds) > 1 or any(pair.shape[1] > 1 for pair in scores.pairs)
    lower = outcome.favourable == "lower"
    shown = mapped(estimated, effect.shown, lower) if effect.shown else estimated
    if effect.limits:
        least, greatest = effect.limits
        shown = replace(shown, low=max(least, shown.low), high=min(greatest, shown.high))
    return Evidence(
        row=line.label,
        baseline=other.label,
        **cut_of(line),
        measure=label,
        seeds=scores.seeds,
        paper=paper,
        ours=shown.value,
        interval=shown if known else None,
        p=estimated.p if known else None,
        favour=-estimated.distance if lower else estimated.distance,
    )


def retains(run: Run, claim: Claim) -> RuleOutcome:
    """How much of the dense model's accuracy is left."""
    ref, measure = claim.rows[0], claim.measures[0]
    effect = Effect(share)
    outcome = RuleOutcome("per cent", "higher", claim.at_least or 0.0, tuned=ref.recovery != "none")
    outcome.paper = _printed(effect, ref.row(), _dense_of(ref), measure)
    line = run.line(ref)
    dense = run.dense(line) if line else None
    if gone := missing_rows([ref], [line], run):
        outcome.lacks(*gone)
    elif line is None or dense is None:
        outcome.lacks(Missing("dense", "no rows"))
    else:
        for label, columns in run.measures(measure, line):
            if case := _compare(run, line, dense, label, columns, outcome, effect, outcome.paper):
                outcome.evidence.append(case)
        if not outcome.evidence:
            outcome.lacks(Missing(measure_name(measure), "no measure"))
    return outcome


def _dense_of(ref: RowRef) -> PaperRow:
    own = ref.row()
    return next(row for row in load_item(ref.item).rows if (row.model, row.method) == (own.model, "dense"))


def _printed(effect: Effect, row: PaperRow, other: PaperRow, measure: str) -> float | None:
    """The same effect from the paper's own numbers; None where it prints none of one of the rows."""
    keys = SEVEN_TASKS if measure == "tasks" else (measure,)
    pairs = [(row.metrics.get(key), other.metrics.get(key)) for key in keys]
    scale = math.log if measure.endswith("_ppl") else lambda percent: percent / 100
    means = [[scale(a), scale(b)] for a, b in pairs if a is not None and b is not None]
    if not means:
        return None
    value = float(effect.statistic(np.array(means)))
    return effect.shown(value) if effect.shown else value
