"""The rules by which claims are judged: from a claim and a run to comparisons with effects and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Literal

import numpy as np

from reproducer.paper import SEVEN_TASKS, Claim, PaperRow, RowRef, load_item
from reproducer.paper import paper as whole_paper
from reproducer.reporting.bootstrap import DRAWS, LEVEL, POWER, SEED, Array, Interval, Statistic, interval, of_error
from reproducer.reporting.comparison import averaged_over
from reproducer.reporting.deviations import TOPICS, Deviation
from reproducer.reporting.rows import Line
from reproducer.reporting.runs import Run
from reproducer.reporting.searches import NEAR, best_so_far, counted, trials_until
from reproducer.stages.results import Column

Unit = Literal["points", "per cent", "times", "trials"]
Why = Literal["no rows", "not run", "failed", "set", "not the paper's row", "few trials", "no measure"]


@dataclass(frozen=True)
class Missing:
    """A row or measure that the run does not have, and why; `where`: the paper's table of a row, and its tuning.

    `set`: the run was asked for the very value, so that measuring it finds nothing.
    """

    name: str
    why: Why
    where: str = ""


@dataclass(frozen=True)
class Evidence:
    """One comparison that a verdict rests on.

    Attributes:
        row, baseline: labels of our rows; `baseline` None where a row is held against nothing.
        model, ratio, structure_ratio, recovery: of our row.
        measure: what is compared, a column's label or `average`; columns: the keys behind it.
        seeds: those that are paired. items: items or windows behind the interval, of all columns; 0: seeds alone.
        paper, ours, interval: in the verdict's unit; no interval: nothing is known of the spread.
        paper_alike: the paper's effect on the average over the tasks that ours is over, where these are not its own.
        p: two-sided, not corrected.
        favour: its distance from the threshold in standard errors, positive as the claim has it.
        exact: counted, not estimated.
    """

    row: str
    baseline: str | None
    model: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    measure: str
    columns: tuple[str, ...]
    seeds: tuple[int, ...]
    items: int
    paper: float | None
    ours: float
    interval: Interval | None
    p: float | None
    favour: float
    exact: bool = False
    paper_alike: float | None = None

    @property
    def significant(self) -> bool:
        """By itself, without a correction."""
        return self.exact or (self.p is not None and self.p < LEVEL)

    @property
    def conditional(self) -> bool:
        """Of one seed: the interval is over the items of one pruned model, and no verdict rests on it."""
        return len(self.seeds) == 1 and not self.exact


@dataclass
class Found:
    """What a rule found: comparisons, what is missing, and what the effects are.

    Attributes:
        paper: the paper's effect, for want of a comparison.
        needed: rows that the claim needs, with the recovery of ours where that is another.
        tuned: the claim is about tuned rows.
        seeds: that the rule asks for, where these are not the usual ones.
        conditions: beyond those of the whole run.
    """

    unit: Unit
    favourable: Literal["higher", "lower"]
    threshold: float | None
    cases: list[Evidence] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    paper: float | None = None
    needed: list[tuple[RowRef, str | None]] = field(default_factory=list)
    tuned: bool = False
    seeds: int | None = None
    conditions: list[Deviation] = field(default_factory=list)


def apply(run: Run, claim: Claim) -> Found:
    """By the claim's rule."""
    return RULES[claim.rule](run, claim)


# statistics of means [..., columns, 2]


def points(means: Array) -> Array:
    """The difference of the columns' mean accuracy, in points."""
    return 100 * (means[..., 0] - means[..., 1]).mean(axis=-1)


def log_ratio(means: Array) -> Array:
    """The logarithm of the ratio of perplexities, of several texts of their geometric means; scores are losses."""
    return (means[..., 0] - means[..., 1]).mean(axis=-1)


def share(means: Array) -> Array:
    """The columns' mean as per cent of the other side's."""
    return 100 * means[..., 0].mean(axis=-1) / means[..., 1].mean(axis=-1)


def share_above(means: Array) -> Array:
    """On how many per cent of the columns it is above; equal ones count half."""
    return 50 * (1 + np.sign(means[..., 0] - means[..., 1])).mean(axis=-1)


def percent_change(value: float) -> float:
    """A logarithm of a ratio as per cent above 1."""
    return 100 * math.expm1(value)


def mapped(of: Interval, to: Callable[[float], float], lower: bool = False) -> Interval:
    """An interval on another scale, `to` rising; `lower`: what is detectable lies below the threshold."""
    away = of.threshold - of.detectable if lower else of.threshold + of.detectable
    values = {name: to(getattr(of, name)) for name in ("value", "low", "high", "threshold")}
    return replace(of, **values, detectable=abs(to(away) - values["threshold"]))


# comparisons of rows


def _better(run: Run, claim: Claim) -> Found:
    perplexity = all(name.endswith("ppl") or name == "perplexity" for name in claim.measures)
    found = Found("per cent", "lower", 0.0) if perplexity else Found("points", "higher", 0.0)

    def compare(line: Line, other: Line, label: str, columns: list[Column], paper: float | None) -> Evidence | None:
        return _case(
            run, line, other, label, columns, paper,
            log_ratio if perplexity else points, 0.0, -1 if perplexity else 1, percent_change if perplexity else None,
        )  # fmt: skip

    _pairs(run, claim, found, _printed_change if perplexity else _printed_points, compare)
    return found


def _most(run: Run, claim: Claim) -> Found:
    found = Found("per cent", "higher", 50.0)

    def compare(line: Line, other: Line, label: str, columns: list[Column], paper: float | None) -> Evidence | None:
        case = _case(run, line, other, label, columns, paper, share_above, 50.0, 1)
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
        gone = _missing((ref, other), lines, run, recovery)
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
                made.append(case and _alike(case, name, printed, ref, other))
            found.cases += filter(None, made)
            if (not made or None in made) and (lack := Missing(_called(name), "no measure")) not in found.missing:
                found.missing.append(lack)
    found.paper = (min if found.favourable == "higher" else max)(told, default=None)


def _called(measure: str) -> str:
    named = {"average_acc": "average accuracy", "tasks": "accuracies"}
    return named.get(measure) or measure.removesuffix("_ppl").replace("_", " ")


def _stand_in(run: Run, claim: Claim, refs: Sequence[RowRef], found: Found) -> str | None:
    """`none` where untuned rows stand in for the tuned ones of a claim: the run can compare more of them."""
    comparable = [
        sum(all(_measured(run.line(ref, recovery)) for ref in pair) for pair in claim.pairs)
        for recovery in (None, "none")
    ]
    if not claim.untuned or comparable[0] >= comparable[1]:
        return None
    theirs = whole_paper().conditions.recovery or refs[0].recovery
    found.conditions.append(Deviation("recovery", TOPICS["recovery"], theirs, "none"))
    return "none"


def _measured(line: Line | None) -> bool:
    return line is not None and line["measured"]


def _missing(
    refs: Sequence[RowRef], lines: Sequence[Line | None], run: Run, recovery: str | None = None
) -> list[Missing]:
    """`recovery`: that of our rows, where it is not the paper's."""
    found: list[Missing] = []
    for ref, line in zip(refs, lines, strict=True):
        where = f"{load_item(ref.item).item}, {'untuned' if (recovery or ref.recovery) == 'none' else 'tuned'}"
        if line is None:
            found.append(Missing(ref.label, "no rows", where))
        elif not _measured(line):
            found.append(Missing(ref.label, "failed" if line["status"] == "failed" else "not run", where))
        elif run.searched_otherwise(line):
            found.append(Missing(ref.label, "not the paper's row", where))
    return found


def _case(
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
        **_place(line),
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


def _alike(
    case: Evidence, measure: str, printed: Callable[[PaperRow, PaperRow, str], float | None], ref: RowRef, other: RowRef
) -> Evidence:
    """With the paper's effect on the tasks that our average is over."""
    if measure != "average_acc" or set(case.columns) == set(SEVEN_TASKS):
        return case
    row, held = (averaged_over(one.row(), case.columns, len(case.columns)) for one in (ref, other))
    return replace(case, paper_alike=printed(row, held, measure))


def _place(line: Line) -> dict:
    return {name: line[name] for name in ("model", "ratio", "structure_ratio", "recovery")}


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


# beside the dense model


def _against_dense(run: Run, claim: Claim, found: Found) -> tuple[Line, Line] | None:
    """The claim's row and the dense one; what is missing is noted."""
    ref = claim.rows[0]
    found.needed = [(ref, None)]
    line = run.line(ref, measure=claim.measures[0])
    dense = run.dense(line) if line else None
    if gone := _missing([ref], [line], run):
        found.missing += gone
    elif dense is None:
        found.missing.append(Missing("dense", "no rows"))
    else:
        assert line is not None
        return line, dense
    return None


def _dense_of(ref: RowRef) -> RowRef:
    own = ref.row()
    found = next(row for row in load_item(ref.item).rows if (row.model, row.method) == (own.model, "dense"))
    return RowRef(ref.item, found.recovery, found.label)


def _printed_share(row: PaperRow, dense: PaperRow, measure: str) -> float | None:
    theirs, of = row.metrics.get(measure), dense.metrics.get(measure)
    return 100 * theirs / of if theirs is not None and of else None


def _retains(run: Run, claim: Claim) -> Found:
    ref, threshold = claim.rows[0], claim.at_least or 0.0
    found = Found(
        "per cent", "higher", threshold, paper=_printed_share(ref.row(), _dense_of(ref).row(), claim.measures[0])
    )
    found.tuned = ref.recovery != "none"
    if both := _against_dense(run, claim, found):
        line, dense = both
        for label, columns in run.measures(claim.measures[0], line):
            if case := _case(run, line, dense, label, columns, found.paper, share, threshold, 1):
                found.cases.append(_alike(case, claim.measures[0], _printed_share, ref, _dense_of(ref)))
        if not found.cases:
            found.missing.append(Missing(_called(claim.measures[0]), "no measure"))
    return found


def _reduces(run: Run, claim: Claim) -> Found:
    ref, key = claim.rows[0], claim.measures[0]
    printed = 100 * (1 - (ref.row().metrics[key] or 0) / (_dense_of(ref).row().metrics[key] or 1))
    found = Found("per cent", "higher", round(printed, 1), paper=printed, seeds=1)
    if both := _against_dense(run, claim, found):
        line, dense = both
        ours, of = line["mean"].get(key), dense["mean"].get(key)
        if ours is None or not of:
            found.missing.append(Missing(_called(key), "no measure"))
        elif key == "params_billion" and line["ratio"] is not None:
            found.missing.append(Missing(_called(key), "set"))
        else:
            value = 100 * (1 - ours / of)
            favour = math.inf if abs(value - printed) <= (claim.within or 0.0) else -math.inf
            found.cases.append(_counted(line, dense, key, found.paper, value, favour))
    return found


def _counted(line: Line, dense: Line, key: str, paper: float | None, value: float, favour: float) -> Evidence:
    seeds = tuple(row.seed for row in line["done"])
    return Evidence(
        row=line["label"], baseline=dense["label"], **_place(line), measure=key, columns=(key,), seeds=seeds, items=0,
        paper=paper, ours=value, interval=None, p=None, favour=favour, exact=True,
    )  # fmt: skip


def _faster(run: Run, claim: Claim) -> Found:
    ref, key, threshold = claim.rows[0], claim.measures[0], claim.at_least or 1.0
    theirs, of = ref.row().metrics[key], _dense_of(ref).row().metrics[key]
    found = Found("times", "higher", threshold, paper=of / theirs if theirs and of else None, seeds=1)
    if both := _against_dense(run, claim, found):
        line, dense = both
        passes = [[row.latency.seconds for row in one["done"] if row.latency] for one in (dense, line)]
        if not all(passes):
            found.missing.append(Missing(_called(key), "no measure"))
            return found
        slow, fast = (np.array(of_row[0]) for of_row in passes)
        drawn = np.random.RandomState(SEED)
        medians = [
            np.median(times[drawn.randint(len(times), size=(DRAWS, len(times)))], axis=1) for times in (slow, fast)
        ]
        value = float(np.log(np.median(slow) / np.median(fast)))
        estimated = of_error(value, float(np.log(medians[0] / medians[1]).std()), 0, math.log(threshold))
        case = _counted(line, dense, key, found.paper, math.exp(value), estimated.distance)
        shown = mapped(estimated, math.exp)
        found.cases.append(replace(case, interval=shown, p=estimated.p, items=len(slow) + len(fast)))
    return found


# spreads over seeds


def _varies(run: Run, claim: Claim) -> Found:
    from scipy.stats import chi2, norm

    threshold = claim.at_least or 0.0
    found = Found("per cent", "higher", threshold)
    for line, logs, keys in _by_seed(run, claim, found):
        if len(logs) < 2:
            continue
        value, degrees = 100 * stdev(logs.values()), len(logs) - 1
        ends = [value * math.sqrt(degrees / float(chi2.ppf(q, degrees))) for q in (1 - LEVEL / 2, LEVEL / 2)]
        stretched = degrees * (value / threshold) ** 2
        p = min(1.0, 2 * min(float(chi2.cdf(stretched, degrees)), float(chi2.sf(stretched, degrees))))
        distance = math.copysign(float(norm.isf(p / 2)), value - threshold)
        seen = threshold * (math.sqrt(float(chi2.ppf(1 - LEVEL / 2, degrees) / chi2.ppf(1 - POWER, degrees))) - 1)
        shown = Interval(value, ends[0], ends[1], threshold, p, distance, seen)
        found.cases.append(_spread(line, None, keys, tuple(logs), value, shown, p, distance))
    return found


def _sensitivity(run: Run, claim: Claim) -> Found:
    from scipy.stats import levene, norm

    found = Found("times", "higher", 1.0)
    known = [one for one in _by_seed(run, claim, found) if len(one[1]) > 1]
    if len(known) > 1:
        spread = [stdev(logs.values()) for _, logs, _ in known]
        most, least = (known[spread.index(end(spread))] for end in (max, min))
        if min(spread) > 0:
            p = float(levene(*(list(logs.values()) for _, logs, _ in known), center="median").pvalue)
            seeds = min((tuple(logs) for _, logs, _ in known), key=len)
            value = max(spread) / min(spread)
            case = _spread(most[0], least[0]["label"], most[2], seeds, value, None, p, float(norm.isf(p / 2)))
            found.cases.append(case)
    return found


def _by_seed(run: Run, claim: Claim, found: Found) -> list[tuple[Line, dict[int, float], tuple[str, ...]]]:
    """Of each row of the claim the mean log perplexity by seed, and the columns behind it."""
    told = []
    for ref in claim.rows:
        found.needed.append((ref, None))
        line = run.line(ref)
        if gone := _missing([ref], [line], run):
            found.missing += gone
            continue
        assert line is not None
        columns = [column for _, of in run.measures(claim.measures[0], line) for column in of]
        logs = {
            row.seed: fmean(math.log(row.metrics[column.key] or math.nan) for column in columns)
            for row in line["rows"]
            if columns and all(row.metrics.get(column.key) is not None for column in columns)
        }
        if len(logs) < 2:
            found.missing.append(Missing(ref.label, "no measure" if not columns else "no rows"))
        else:
            told.append((line, logs, tuple(column.key for column in columns)))
    return told


def _spread(
    line: Line,
    other: str | None,
    keys: tuple[str, ...],
    seeds: tuple[int, ...],
    value: float,
    shown: Interval | None,
    p: float,
    favour: float,
) -> Evidence:
    return Evidence(
        row=line["label"], baseline=other, **_place(line), measure="standard deviation over seeds", columns=keys,
        seeds=seeds, items=0, paper=None, ours=value, interval=shown, p=p, favour=favour,
    )  # fmt: skip


# searches


def _histories(run: Run, claim: Claim, found: Found) -> tuple[tuple[int, ...], list[Array]] | None:
    """The best so far of both searches after each trial, by seed, for the seeds of both; what is missing is noted."""
    refs = [claim.rows[0], (claim.against or claim.rows)[0]]
    found.needed = [(ref, None) for ref in refs]
    made = [run.searches(ref.label) for ref in refs]
    seeds = tuple(sorted(made[0].keys() & made[1].keys()))
    if not seeds:
        found.missing += [Missing(ref.label, "no rows") for ref, of in zip(refs, made, strict=True) if not of]
        return None
    least = min(counted(of[seed]) for of in made for seed in seeds)
    if claim.trials is not None and least < claim.trials:
        found.missing.append(Missing(f"{least} trials", "few trials"))
        return None
    curves = [np.array([best_so_far(of[seed])[: claim.trials] for seed in seeds]) for of in made]
    return seeds, curves


def _search_case(
    run: Run, claim: Claim, seeds: tuple[int, ...], measure: str, shown: Interval, **more: object
) -> Evidence:
    search = run.searches(claim.rows[0].label)[seeds[0]]
    facts: dict = {
        "row": claim.rows[0].label,
        "baseline": (claim.against or claim.rows)[0].label,
        "model": search.model,
        "ratio": search.ratio,
        "structure_ratio": search.structure_ratio,
        "recovery": "none",
        "measure": measure,
        "columns": ("search_objective",),
        "seeds": seeds,
        "items": 0,
        "ours": shown.value,
        "interval": shown if len(seeds) > 1 else None,
        "p": shown.p if len(seeds) > 1 else None,
    }
    return Evidence(**facts | more)


def _converges(run: Run, claim: Claim) -> Found:
    found = Found("trials", "higher", 0.0)
    printed = load_item(claim.rows[0].item).trials_to_converge
    found.paper = float(printed["random"] - printed["tpe"])
    if told := _histories(run, claim, found):
        seeds, curves = told
        ours, theirs = (
            np.array([trials_until(list(curve), (1 + NEAR) * curve[-1]) or len(curve) for curve in of], dtype=float)
            for of in curves
        )
        for label, first, second, paper in (
            ("fewer trials until it has converged", theirs, ours, found.paper),
            (f"trials until it has converged, below {printed['tpe']}", np.full_like(ours, printed["tpe"]), ours, 0.0),
        ):
            estimated = interval([np.stack([first, second], axis=-1)[:, None, :]], log_ratio)  # a plain difference
            found.cases.append(
                _search_case(run, claim, seeds, label, estimated, paper=paper, favour=estimated.distance)
            )
    return found


def _finds(run: Run, claim: Claim) -> Found:
    found = Found("per cent", "lower", 0.0)
    if told := _histories(run, claim, found):
        seeds, curves = told
        bests = np.stack([np.log(curve[:, -1]) for curve in curves], axis=-1)[:, None, :]
        estimated = interval([bests], log_ratio)
        shown = mapped(estimated, percent_change, lower=True)
        found.cases.append(
            _search_case(run, claim, seeds, "best objective", shown, paper=None, favour=-estimated.distance)
        )
    return found


def _judged(run: Run, claim: Claim) -> Found:
    return Found("points", "higher", None)


RULES: dict[str, Callable[[Run, Claim], Found]] = {
    "better": _better,
    "most": _most,
    "retains": _retains,
    "varies": _varies,
    "sensitivity": _sensitivity,
    "converges": _converges,
    "finds": _finds,
    "reduces": _reduces,
    "faster": _faster,
    "judged": _judged,
}
