"""Rules that compare a row with others (`better`, `most`) or the dense model (`retains`, `reduces`, `faster`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reproducer.paper import SEVEN_TASKS, Claim, PaperRow, RowRef, load_item
from reproducer.paper import paper as the_paper
from reproducer.reporting.bootstrap import DRAWS, SEED, Statistic, interval, of_error
from reproducer.reporting.comparison import averaged_over
from reproducer.reporting.deviations import TOPICS, Deviation
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
        printed: the paper's effect, from two of its rows and the key of a measure.
        shown: a value of the statistic in the outcome's unit; None: as it is.
        limits: of what is shown.
    """

    statistic: Statistic
    printed: Callable[[PaperRow, PaperRow, str], float | None]
    shown: Callable[[float], float] | None = None
    limits: tuple[float, float] | None = None


def better(run: Run, claim: Claim) -> RuleOutcome:
    """By how much each row is better than what it is held against: points of accuracy, per cent of perplexity."""
    if all(name.endswith("ppl") or name == "perplexity" for name in claim.measures):
        outcome, effect = RuleOutcome("per cent", "lower", 0.0), Effect(log_ratio, _printed_change, percent_change)
    else:
        outcome, effect = RuleOutcome("points", "higher", 0.0), Effect(points, _printed_points)
    return _each_pair(run, claim, outcome, effect)


def most(run: Run, claim: Claim) -> RuleOutcome:
    """On how many of the tasks each row is better."""
    effect = Effect(share_above, _printed_tasks, limits=(0.0, 100.0))
    return _each_pair(run, claim, RuleOutcome("per cent", "higher", 50.0), effect, together=True)


def _each_pair(run: Run, claim: Claim, outcome: RuleOutcome, effect: Effect, together: bool = False) -> RuleOutcome:
    """Each row with each that it is held against, on each measure; `together`: on a measure's columns at once."""
    refs = list(dict.fromkeys(ref for pair in claim.pairs for ref in pair))
    recovery = _stand_in(run, claim, refs, outcome)
    outcome.tuned = recovery is None and all(ref.recovery != "none" for ref in refs)
    printed: list[float] = []
    for ref, other in claim.pairs:
        line, against = (run.line(side, recovery) for side in (ref, other))
        gone = missing_rows((ref, other), (line, against), run, recovery)
        for name in claim.measures:
            paper = effect.printed(ref.row(), other.row(), name)
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
                theirs = effect.printed(ref.row(), other.row(), key)
                case = _compare(run, line, against, label, columns, outcome, effect, theirs)
                compared.append(case and _with_alike(case, name, effect, ref, other))
            outcome.evidence += filter(None, compared)
            if not compared or None in compared:
                outcome.lacks(Missing(measure_name(name), "no measure"))
    outcome.paper = (min if outcome.favourable == "higher" else max)(printed, default=None)
    return outcome


def _stand_in(run: Run, claim: Claim, refs: Sequence[RowRef], outcome: RuleOutcome) -> str | None:
    """`none` where untuned rows stand in for the tuned ones of a claim: the run can compare more of them."""

    def comparable(recovery: str | None) -> int:
        lines = [[run.line(ref, recovery) for ref in pair] for pair in claim.pairs]
        return sum(all(line is not None and line.measured for line in pair) for pair in lines)

    if not claim.untuned or comparable(None) >= comparable("none"):
        return None
    theirs = the_paper().conditions.recovery or refs[0].recovery
    outcome.conditions.append(Deviation("recovery", TOPICS["recovery"], theirs, "none"))
    return "none"


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
    estimated = interval(scores.pairs, effect.statistic, outcome.threshold or 0.0)
    known = len(scores.seeds) > 1 or scores.items > 0
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
        columns=tuple(column.key for column in columns),
        seeds=scores.seeds,
        items=scores.items,
        paper=paper,
        ours=shown.value,
        interval=shown if known else None,
        p=estimated.p if known else None,
        favour=-estimated.distance if lower else estimated.distance,
    )


def _with_alike(evidence: Evidence, measure: str, effect: Effect, ref: RowRef, other: RowRef) -> Evidence:
    """With the paper's effect on the tasks that our average is over."""
    if measure != "average_acc" or set(evidence.columns) == set(SEVEN_TASKS):
        return evidence
    row, held = (averaged_over(side.row(), evidence.columns, len(evidence.columns)) for side in (ref, other))
    return replace(evidence, paper_alike=effect.printed(row, held, measure))


def retains(run: Run, claim: Claim) -> RuleOutcome:
    """How much of the dense model's accuracy is left."""
    ref, measure = claim.rows[0], claim.measures[0]
    dense_ref, effect = _dense_of(ref), Effect(share, _printed_share)
    outcome = RuleOutcome("per cent", "higher", claim.at_least or 0.0, tuned=ref.recovery != "none")
    outcome.paper = effect.printed(ref.row(), dense_ref.row(), measure)
    if both := _with_dense(run, claim, outcome):
        for label, columns in run.measures(measure, both[0]):
            if case := _compare(run, *both, label, columns, outcome, effect, outcome.paper):
                outcome.evidence.append(_with_alike(case, measure, effect, ref, dense_ref))
        if not outcome.evidence:
            outcome.lacks(Missing(measure_name(measure), "no measure"))
    return outcome


def reduces(run: Run, claim: Claim) -> RuleOutcome:
    """How much of a size, which is counted, is gone."""
    key = claim.measures[0]
    theirs, of = (ref.row().metrics[key] for ref in (claim.rows[0], _dense_of(claim.rows[0])))
    printed = 100 * (1 - (theirs or 0) / (of or 1))
    outcome = RuleOutcome("per cent", "higher", round(printed, 1), paper=printed, seeds=1)
    if both := _with_dense(run, claim, outcome):
        line, dense = both
        ours, of_dense = line.mean.get(key), dense.mean.get(key)
        if ours is None or not of_dense:
            outcome.lacks(Missing(measure_name(key), "no measure"))
        elif key == "params_billion" and line.ratio is not None:
            outcome.lacks(Missing(measure_name(key), "set"))
        else:
            value = 100 * (1 - ours / of_dense)
            favour = math.inf if abs(value - printed) <= (claim.within or 0.0) else -math.inf
            outcome.evidence.append(_counted(line, dense, key, printed, value, favour))
    return outcome


def faster(run: Run, claim: Claim) -> RuleOutcome:
    """The dense model's latency over the row's; the interval is over the passes timed."""
    key, threshold = claim.measures[0], claim.at_least or 1.0
    theirs, of = (ref.row().metrics[key] for ref in (claim.rows[0], _dense_of(claim.rows[0])))
    outcome = RuleOutcome("times", "higher", threshold, paper=of / theirs if theirs and of else None, seeds=1)
    if both := _with_dense(run, claim, outcome):
        line, dense = both
        passes = [[row.latency.seconds for row in side.done if row.latency] for side in (dense, line)]
        if not all(passes):
            outcome.lacks(Missing(measure_name(key), "no measure"))
            return outcome
        slow, fast = (np.array(of_row[0]) for of_row in passes)
        draw = np.random.RandomState(SEED)
        medians = [
            np.median(times[draw.randint(len(times), size=(DRAWS, len(times)))], axis=1) for times in (slow, fast)
        ]
        value = float(np.log(np.median(slow) / np.median(fast)))
        estimated = of_error(value, float(np.log(medians[0] / medians[1]).std()), 0, math.log(threshold))
        counted = _counted(line, dense, key, outcome.paper, math.exp(value), estimated.distance)
        shown = mapped(estimated, math.exp)
        outcome.evidence.append(replace(counted, interval=shown, p=estimated.p, items=len(slow) + len(fast)))
    return outcome


def _with_dense(run: Run, claim: Claim, outcome: RuleOutcome) -> tuple[Line, Line] | None:
    """The claim's row and the dense one; what is missing is noted."""
    ref = claim.rows[0]
    line = run.line(ref, measure=claim.measures[0])
    if gone := missing_rows([ref], [line], run):
        outcome.lacks(*gone)
    elif line is not None and (dense := run.dense(line)):
        return line, dense
    else:
        outcome.lacks(Missing("dense", "no rows"))
    return None


def _counted(line: Line, dense: Line, key: str, paper: float | None, value: float, favour: float) -> Evidence:
    seeds = tuple(row.seed for row in line.done)
    return Evidence(
        row=line.label, baseline=dense.label, **cut_of(line), measure=key, columns=(key,), seeds=seeds, items=0,
        paper=paper, ours=value, interval=None, p=None, favour=favour, exact=True,
    )  # fmt: skip


# the paper's effects, from its tables


def _dense_of(ref: RowRef) -> RowRef:
    own = ref.row()
    dense = next(row for row in load_item(ref.item).rows if (row.model, row.method) == (own.model, "dense"))
    return RowRef(ref.item, dense.recovery, dense.label)


def _printed_points(row: PaperRow, other: PaperRow, measure: str) -> float | None:
    a, b = row.metrics.get(measure), other.metrics.get(measure)
    return None if a is None or b is None else a - b


def _printed_change(row: PaperRow, other: PaperRow, measure: str) -> float | None:
    a, b = row.metrics.get(measure), other.metrics.get(measure)
    return None if a is None or b is None else 100 * (a / b - 1)


def _printed_share(row: PaperRow, dense: PaperRow, measure: str) -> float | None:
    a, b = row.metrics.get(measure), dense.metrics.get(measure)
    return 100 * a / b if a is not None and b else None


def _printed_tasks(row: PaperRow, other: PaperRow, measure: str) -> float | None:
    pairs = [(row.metrics.get(task), other.metrics.get(task)) for task in SEVEN_TASKS]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return 100 * sum(a > b for a, b in known) / len(known) if known else None
