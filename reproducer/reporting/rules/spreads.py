"""Rules on the spread of perplexities over seeds: how much a row `varies`, and the rows' `sensitivity`."""

from __future__ import annotations

import math
from statistics import fmean, stdev

from reproducer.paper import Claim
from reproducer.reporting.bootstrap import LEVEL, POWER, Interval
from reproducer.reporting.rows import Line
from reproducer.reporting.rules.evidence import Evidence, Found, Missing, missing_rows, place
from reproducer.reporting.runs import Run


def varies(run: Run, claim: Claim) -> Found:
    """The standard deviation of the mean log perplexity over seeds, and its interval by chi-squared."""
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


def sensitivity(run: Run, claim: Claim) -> Found:
    """The largest such deviation over the smallest; p by Levene's test about medians (Brown and Forsythe)."""
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
        if gone := missing_rows([ref], [line], run):
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
        row=line["label"], baseline=other, **place(line), measure="standard deviation over seeds", columns=keys,
        seeds=seeds, items=0, paper=None, ours=value, interval=shown, p=p, favour=favour,
    )  # fmt: skip
