"""Rules that hold a row against the dense model: what it `retains`, what it `reduces`, how much `faster` it is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from reproducer.paper import Claim, PaperRow, RowRef, load_item
from reproducer.reporting.bootstrap import DRAWS, SEED, of_error
from reproducer.reporting.rows import Line
from reproducer.reporting.rules.effects import mapped, share
from reproducer.reporting.rules.evidence import Evidence, Found, Missing, called, missing_rows, place
from reproducer.reporting.rules.pairs import compared, with_alike
from reproducer.reporting.runs import Run


def _against_dense(run: Run, claim: Claim, found: Found) -> tuple[Line, Line] | None:
    """The claim's row and the dense one; what is missing is noted."""
    ref = claim.rows[0]
    found.needed = [(ref, None)]
    line = run.line(ref, measure=claim.measures[0])
    dense = run.dense(line) if line else None
    if gone := missing_rows([ref], [line], run):
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


def retains(run: Run, claim: Claim) -> Found:
    """How much of the dense model's accuracy is left."""
    ref, threshold = claim.rows[0], claim.at_least or 0.0
    found = Found(
        "per cent", "higher", threshold, paper=_printed_share(ref.row(), _dense_of(ref).row(), claim.measures[0])
    )
    found.tuned = ref.recovery != "none"
    if both := _against_dense(run, claim, found):
        line, dense = both
        for label, columns in run.measures(claim.measures[0], line):
            if case := compared(run, line, dense, label, columns, found.paper, share, threshold, 1):
                found.cases.append(with_alike(case, claim.measures[0], _printed_share, ref, _dense_of(ref)))
        if not found.cases:
            found.missing.append(Missing(called(claim.measures[0]), "no measure"))
    return found


def reduces(run: Run, claim: Claim) -> Found:
    """How much of a size, which is counted, is gone."""
    ref, key = claim.rows[0], claim.measures[0]
    printed = 100 * (1 - (ref.row().metrics[key] or 0) / (_dense_of(ref).row().metrics[key] or 1))
    found = Found("per cent", "higher", round(printed, 1), paper=printed, seeds=1)
    if both := _against_dense(run, claim, found):
        line, dense = both
        ours, of = line["mean"].get(key), dense["mean"].get(key)
        if ours is None or not of:
            found.missing.append(Missing(called(key), "no measure"))
        elif key == "params_billion" and line["ratio"] is not None:
            found.missing.append(Missing(called(key), "set"))
        else:
            value = 100 * (1 - ours / of)
            favour = math.inf if abs(value - printed) <= (claim.within or 0.0) else -math.inf
            found.cases.append(_counted(line, dense, key, found.paper, value, favour))
    return found


def _counted(line: Line, dense: Line, key: str, paper: float | None, value: float, favour: float) -> Evidence:
    seeds = tuple(row.seed for row in line["done"])
    return Evidence(
        row=line["label"], baseline=dense["label"], **place(line), measure=key, columns=(key,), seeds=seeds, items=0,
        paper=paper, ours=value, interval=None, p=None, favour=favour, exact=True,
    )  # fmt: skip


def faster(run: Run, claim: Claim) -> Found:
    """The dense model's latency over the row's; the interval is over the passes timed."""
    ref, key, threshold = claim.rows[0], claim.measures[0], claim.at_least or 1.0
    theirs, of = ref.row().metrics[key], _dense_of(ref).row().metrics[key]
    found = Found("times", "higher", threshold, paper=of / theirs if theirs and of else None, seeds=1)
    if both := _against_dense(run, claim, found):
        line, dense = both
        passes = [[row.latency.seconds for row in one["done"] if row.latency] for one in (dense, line)]
        if not all(passes):
            found.missing.append(Missing(called(key), "no measure"))
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
