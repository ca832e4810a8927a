"""Rules that hold rows against rows: `better` by a difference, `most` by the number of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from reproducer.paper import SEVEN_TASKS, Claim, PaperRow, RowRef
from reproducer.paper import paper as whole_paper
from reproducer.reporting.bootstrap import Statistic, interval
from reproducer.reporting.comparison import averaged_over
from reproducer.reporting.deviations import TOPICS, Deviation
from reproducer.reporting.rows import Line
from reproducer.reporting.rules.effects import log_ratio, mapped, percent_change, points, share_above
from reproducer.reporting.rules.evidence import Evidence, Found, Missing, called, is_measured, missing_rows, place
from reproducer.reporting.runs import Run
from reproducer.stages.results import Column


def better(run: Run, claim: Claim) -> Found:
    """By how much each row is better than what it is held against: points of accuracy, per cent of perplexity."""
    perplexity = all(name.endswith("ppl") or name == "perplexity" for name in claim.measures)
    found = Found("per cent", "lower", 0.0) if perplexity else Found("points", "higher", 0.0)

    def compare(line: Line, other: Line, label: str, columns: list[Column], paper: float | None) -> Evidence | None:
        return compared(
            run, line, other, label, columns, paper,
            log_ratio if perplexity else points, 0.0, -1 if perplexity else 1, percent_change if perplexity else None,
        )  # fmt: skip

    _pairs(run, claim, found, _printed_change if perplexity else _printed_points, compare)
    return found


def most(run: Run, claim: Claim) -> Found:
    """On how many of the tasks each row is better."""
    found = Found("per cent", "higher", 50.0)

    def compare(line: Line, other: Line, label: str, columns: list[Column], paper: float | None) -> Evidence | None:
        case = compared(run, line, other, label, columns, paper, share_above, 50.0, 1)
        if case is None or case.interval is None:
            return case
        ends = max(0.0, case.interval.low), min(100.0, case.interval.high)  # of a share
        return replace(case, interval=replace(case.interval, low=ends[0], high=ends[1]))

    _pairs(run, claim, found, _printed_tasks, compare, together=True)
    return found


def _pairs(
    run: Run,
    claim: Claim,
    found: Found,
    printed: Callable[[PaperRow, PaperRow, str], float | None],
    compare: Callable[[Line, Line, str, list[Column], float | None], Evidence | None],
    together: bool = False,
) -> None:
    """Each row with each that it is held against, on each measure; `together`: on a measure's columns at once."""
    refs = list(dict.fromkeys(ref for pair in claim.pairs for ref in pair))
    recovery = _stand_in(run, claim, refs, found)
    found.tuned = recovery is None and all(ref.recovery != "none" for ref in refs)
    found.needed = [(ref, recovery) for ref in refs]
    told = []
    for ref, other in claim.pairs:
        lines = [run.line(one, recovery) for one in (ref, other)]
        gone = missing_rows((ref, other), lines, run, recovery)
        for name in claim.measures:
            paper = printed(ref.row(), other.row(), name)
            if paper is None and name != "tasks":
                continue  # the paper prints no such number of this row, so it claims nothing of it
            told += [] if paper is None else [paper]
            if gone:
                found.missing += [one for one in gone if one not in found.missing]
                continue
            line, against = lines
            assert line is not None and against is not None
            measures = run.measures(name, line)
            if together and measures:
                measures = [(name, [column for _, columns in measures for column in columns])]
            made = []
            for label, columns in measures:
                alone = name == "tasks" and not together
                theirs = printed(ref.row(), other.row(), columns[0].key) if alone else paper
                case = compare(line, against, label, columns, theirs)
                made.append(case and with_alike(case, name, printed, ref, other))
            found.cases += filter(None, made)
            if (not made or None in made) and (lack := Missing(called(name), "no measure")) not in found.missing:
                found.missing.append(lack)
    found.paper = (min if found.favourable == "higher" else max)(told, default=None)


def _stand_in(run: Run, claim: Claim, refs: Sequence[RowRef], found: Found) -> str | None:
    """`none` where untuned rows stand in for the tuned ones of a claim: the run can compare more of them."""
    comparable = [
        sum(all(is_measured(run.line(ref, recovery)) for ref in pair) for pair in claim.pairs)
        for recovery in (None, "none")
    ]
    if not claim.untuned or comparable[0] >= comparable[1]:
        return None
    theirs = whole_paper().conditions.recovery or refs[0].recovery
    found.conditions.append(Deviation("recovery", TOPICS["recovery"], theirs, "none"))
    return "none"


def compared(
    run: Run,
    line: Line,
    other: Line,
    label: str,
    columns: list[Column],
    paper: float | None,
    statistic: Statistic,
    threshold: float,
    sign: int,
    to: Callable[[float], float] | None = None,
) -> Evidence | None:
    """Two rows on the mean of some columns; None where the run has them on no common seed."""
    measured = run.measured(line, other, columns)
    if measured is None:
        return None
    estimated = interval(measured.pairs, statistic, threshold)
    known = len(measured.seeds) > 1 or measured.items > 0
    shown = mapped(estimated, to, lower=sign < 0) if to else estimated
    return Evidence(
        row=line["label"],
        baseline=other["label"],
        **place(line),
        measure=label,
        columns=tuple(column.key for column in columns),
        seeds=measured.seeds,
        items=measured.items,
        paper=paper,
        ours=shown.value,
        interval=shown if known else None,
        p=estimated.p if known else None,
        favour=sign * estimated.distance,
    )


def with_alike(
    case: Evidence, measure: str, printed: Callable[[PaperRow, PaperRow, str], float | None], ref: RowRef, other: RowRef
) -> Evidence:
    """With the paper's effect on the tasks that our average is over."""
    if measure != "average_acc" or set(case.columns) == set(SEVEN_TASKS):
        return case
    row, held = (averaged_over(one.row(), case.columns, len(case.columns)) for one in (ref, other))
    return replace(case, paper_alike=printed(row, held, measure))


# the paper's effects, from its tables


def _printed_points(row: PaperRow, other: PaperRow, measure: str) -> float | None:
    a, b = row.metrics.get(measure), other.metrics.get(measure)
    return None if a is None or b is None else a - b


def _printed_change(row: PaperRow, other: PaperRow, measure: str) -> float | None:
    a, b = row.metrics.get(measure), other.metrics.get(measure)
    return None if a is None or b is None else 100 * (a / b - 1)


def _printed_tasks(row: PaperRow, other: PaperRow, measure: str) -> float | None:
    pairs = [(row.metrics.get(task), other.metrics.get(task)) for task in SEVEN_TASKS]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return 100 * sum(a > b for a, b in known) / len(known) if known else None
