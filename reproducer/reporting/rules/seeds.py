"""Rules on the spread over seeds (`varies`, `sensitivity`), and on searches (`converges`, `finds`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from reproducer.paper import Claim, load_item
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
    for line, logs, keys in _log_perplexities(run, claim, outcome):
        value, degrees = 100 * stdev(logs.values()), len(logs) - 1
        low, high = (value * math.sqrt(degrees / float(chi2.ppf(q, degrees))) for q in (1 - LEVEL / 2, LEVEL / 2))
        stretched = degrees * (value / threshold) ** 2
        p = min(1.0, 2 * min(float(chi2.cdf(stretched, degrees)), float(chi2.sf(stretched, degrees))))
        distance = math.copysign(float(norm.isf(p / 2)), value - threshold)
        seen = threshold * (math.sqrt(float(chi2.ppf(1 - LEVEL / 2, degrees) / chi2.ppf(1 - POWER, degrees))) - 1)
        shown = Interval(value, low, high, threshold, p, distance, seen)
        outcome.evidence.append(_spread(line, None, keys, tuple(logs), value, shown, p, distance))
    return outcome


def sensitivity(run: Run, claim: Claim) -> RuleOutcome:
    """The largest such deviation over the smallest; p by Levene's test about medians (Brown and Forsythe)."""
    from scipy.stats import levene, norm

    outcome = RuleOutcome("times", "higher", 1.0)
    known = _log_perplexities(run, claim, outcome)
    spreads = [stdev(logs.values()) for _, logs, _ in known]
    if len(known) > 1 and min(spreads) > 0:
        widest, narrowest = (known[spreads.index(end(spreads))] for end in (max, min))
        p = float(levene(*(list(logs.values()) for _, logs, _ in known), center="median").pvalue)
        seeds = min((tuple(logs) for _, logs, _ in known), key=len)
        value, favour = max(spreads) / min(spreads), float(norm.isf(p / 2))
        outcome.evidence.append(_spread(widest[0], narrowest[0].label, widest[2], seeds, value, None, p, favour))
    return outcome


def _log_perplexities(
    run: Run, claim: Claim, outcome: RuleOutcome
) -> list[tuple[Line, dict[int, float], tuple[str, ...]]]:
    """Of each row of the claim with two seeds the mean log perplexity by seed, and the columns behind it."""
    known = []
    for ref in claim.rows:
        line = run.line(ref)
        if gone := missing_rows([ref], [line], run):
            outcome.lacks(*gone)
            continue
        assert line is not None
        columns = [column for _, of in run.measures(claim.measures[0], line) for column in of]
        logs = {
            row.seed: fmean(math.log(row.metrics[column.key] or math.nan) for column in columns)
            for row in line.rows
            if columns and all(row.metrics.get(column.key) is not None for column in columns)
        }
        if len(logs) < 2:
            outcome.lacks(Missing(ref.label, "no measure" if not columns else "no rows"))
        else:
            known.append((line, logs, tuple(column.key for column in columns)))
    return known


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
        row=line.label, baseline=other, **cut_of(line), measure="standard deviation over seeds", columns=keys,
        seeds=seeds, items=0, paper=None, ours=value, interval=shown, p=p, favour=favour,
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
    run: Run, claim: Claim, seeds: Sequence[int], measure: str, shown: Interval, favour: float, paper: float | None
) -> Evidence:
    search = run.searches(claim.rows[0].label)[seeds[0]]
    known: dict[str, Any] = {"interval": shown, "p": shown.p} if len(seeds) > 1 else {"interval": None, "p": None}
    return Evidence(
        row=claim.rows[0].label, baseline=(claim.against or claim.rows)[0].label, model=search.model,
        ratio=search.ratio, structure_ratio=search.structure_ratio, recovery="none", measure=measure,
        columns=("search_objective",), seeds=tuple(seeds), items=0, paper=paper, ours=shown.value, favour=favour,
        **known,
    )  # fmt: skip
