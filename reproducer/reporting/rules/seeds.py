"""Rules on the spread over seeds (`varies`, `sensitivity`), and on searches (`converges`, `finds`)."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import numpy as np

from reproducer.paper.catalogue import load_item
from reproducer.paper.claims import Claim
from reproducer.reporting.bootstrap import LEVEL, POWER, Array, Interval, interval
from reproducer.reporting.rows import Line
from reproducer.reporting.rules.effects import log_ratio, mapped, percent_change
from reproducer.reporting.rules.evidence import Evidence, Missing, RuleOutcome, cut_of, missing_rows
from reproducer.reporting.runs import Run
from reproducer.reporting.searches import NEAR, best_so_far, counted, trials_until


def varies(run: Run, claim: Claim) -> RuleOutcome:
    """The standard deviation of the mean log perplexity over seeds, and its interval by chi-squared."""
    from scipy.stats import chi2, norm

    threshold = claim.at_least or 0.0
    outcome = RuleOutcome("per cent", "higher", threshold)
    for line, logs in _log_perplexities(run, claim, outcome):
        value, degrees = 100 * stdev(logs.values()), len(logs) - 1
        low, high = (value * math.sqrt(degrees / float(chi2.ppf(q, degrees))) for q in (1 - LEVEL / 2, LEVEL / 2))
        stretched = degrees * (value / threshold) ** 2
        p = min(1.0, 2 * min(float(chi2.cdf(stretched, degrees)), float(chi2.sf(stretched, degrees))))
        distance = math.copysign(float(norm.isf(p / 2)), value - threshold)
        seen = threshold * (math.sqrt(float(chi2.ppf(1 - LEVEL / 2, degrees) / chi2.ppf(1 - POWER, degrees))) - 1)
        shown = Interval(value, low, high, threshold, p, distance, seen)
        outcome.evidence.append(_spread(line, None, tuple(logs), value, shown, p, distance))
    return outcome


def sensitivity(run: Run, claim: Claim) -> RuleOutcome:
    """The largest such deviation over the smallest; p by Levene's test about medians (Brown and Forsythe)."""
    from scipy.stats import levene, norm

    outcome = RuleOutcome("times", "higher", 1.0)
    known = sorted(_log_perplexities(run, claim, outcome), key=lambda one: stdev(one[1].values()))
    if len(known) > 1 and (least := stdev(known[0][1].values())) > 0:
        p = float(levene(*(list(logs.values()) for _, logs in known), center="median").pvalue)
        seeds = min((tuple(logs) for _, logs in known), key=len)
        widest, value = known[-1][0], stdev(known[-1][1].values()) / least
        outcome.evidence.append(_spread(widest, known[0][0].label, seeds, value, None, p, float(norm.isf(p / 2))))
    return outcome


def _log_perplexities(run: Run, claim: Claim, outcome: RuleOutcome) -> list[tuple[Line, dict[int, float]]]:
    """Of each row of the claim with two seeds the mean log perplexity by seed."""
    known = []
    for ref in claim.rows:
        line = run.line(ref)
        gone = missing_rows([ref], [line], run)
        if gone or line is None:
            outcome.lacks(*gone)
            continue
        columns = [column for _, of in run.measures(claim.measures[0], line) for column in of]
        logs = {
            row.seed: fmean(math.log(row.metrics[column.key] or math.nan) for column in columns)
            for row in line.rows
            if columns and all(row.metrics.get(column.key) is not None for column in columns)
        }
        if len(logs) < 2:
            outcome.lacks(Missing(ref.label, "no measure" if not columns else "no rows"))
        else:
            known.append((line, logs))
    return known


def _spread(
    line: Line, other: str | None, seeds: tuple[int, ...], value: float, shown: Interval | None, p: float, favour: float
) -> Evidence:
    return Evidence(
        row=line.label, baseline=other, **cut_of(line), measure="standard deviation over seeds", seeds=seeds,
        paper=None, ours=value, interval=shown, p=p, favour=favour,
    )  # fmt: skip


def converges(run: Run, claim: Claim) -> RuleOutcome:
    """How many trials sooner a search comes near its own best."""
    printed = load_item(claim.rows[0].item).trials_to_converge
    outcome = RuleOutcome("trials", "higher", 0.0, paper=float(printed["random"] - printed["tpe"]))
    if histories := _histories(run, claim, outcome):
        seeds, curves = histories
        ours, theirs = (
            np.array([trials_until(list(curve), (1 + NEAR) * curve[-1]) or len(curve) for curve in of], dtype=float)
            for of in curves
        )
        limit = printed["tpe"]
        for label, first, paper in (
            ("fewer trials until it has converged", theirs, outcome.paper),
            (f"trials until it has converged, below {limit}", np.full_like(ours, limit), 0.0),
        ):
            shown = _difference(first, ours)
            outcome.evidence.append(_of_search(run, claim, seeds, label, shown, shown.distance, paper))
    return outcome


def finds(run: Run, claim: Claim) -> RuleOutcome:
    """By how much a search's best objective is lower."""
    outcome = RuleOutcome("per cent", "lower", 0.0)
    if histories := _histories(run, claim, outcome):
        seeds, curves = histories
        estimated = _difference(*(np.log(curve[:, -1]) for curve in curves))
        shown = mapped(estimated, percent_change, lower=True)
        outcome.evidence.append(_of_search(run, claim, seeds, "best objective", shown, -estimated.distance, None))
    return outcome


def _difference(first: Array, second: Array) -> Interval:
    """Of two values a seed."""
    return interval([np.stack([first, second], axis=-1)[:, None, :]], log_ratio)


def _histories(run: Run, claim: Claim, outcome: RuleOutcome) -> tuple[tuple[int, ...], list[Array]] | None:
    """The best so far of both searches after each trial, by seed, for the seeds of both; what is missing is noted."""
    refs = [claim.rows[0], (claim.against or claim.rows)[0]]
    searches = [run.searches(ref.label) for ref in refs]
    seeds = tuple(sorted(searches[0].keys() & searches[1].keys()))
    if not seeds:
        outcome.lacks(*(Missing(ref.label, "no rows") for ref, of in zip(refs, searches, strict=True) if not of))
        return None
    least = min(counted(of[seed]) for of in searches for seed in seeds)
    if claim.trials is not None and least < claim.trials:
        outcome.lacks(Missing(f"{least} trials", "few trials"))
        return None
    return seeds, [np.array([best_so_far(of[seed])[: claim.trials] for seed in seeds]) for of in searches]


def _of_search(
    run: Run, claim: Claim, seeds: tuple[int, ...], measure: str, shown: Interval, favour: float, paper: float | None
) -> Evidence:
    search = run.searches(claim.rows[0].label)[seeds[0]]
    cut = {name: getattr(search, name) for name in ("model", "ratio", "structure_ratio")}
    known = shown if len(seeds) > 1 else None
    return Evidence(
        row=claim.rows[0].label, baseline=(claim.against or claim.rows)[0].label, **cut, recovery="none",
        recovery_label=None, measure=measure, seeds=seeds, paper=paper, ours=shown.value, interval=known,
        p=known.p if known else None, favour=favour,
    )  # fmt: skip
