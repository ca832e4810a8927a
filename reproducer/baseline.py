"""A committed results.json that `reproduce check` compares a run with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from reproducer.errors import UserError
from reproducer.facts import read_results
from reproducer.stages.results import Results, Source


class _Row(BaseModel):
    model: str
    label: str
    ratio: float | None = None
    structure_ratio: float | None = None
    recovery: str = "none"
    seed: int = 0
    metrics: dict[str, float | None]


class Baseline(BaseModel):
    """As much of a results.json as a comparison needs."""

    rows: list[_Row]
    sources: list[Source] = []
    environment: dict[str, Any] = {}


def read_baseline(path: Path) -> Baseline:
    """The baseline in a file. UserError: it is none, or has no rows."""
    found = read_results(Baseline, path, f"the baseline {path}", strict=True)
    if not found.rows:
        raise UserError(f"the baseline {path} has no rows to compare with")
    return found


def differences_from(baseline: Baseline, results: Results, tolerance: float) -> list[str]:
    """What differs, a line each: rows that one has alone, and measures, times left out, by more than a share."""
    timed = {column.key for column in results.columns if column.timed}
    known, measured = by_name(baseline.rows), by_name(results.rows)
    found = [f"{name}: not in this run" for name in known if name not in measured]
    found += [f"{name}: not in the baseline" for name in measured if name not in known]
    for name in known.keys() & measured.keys():
        for metric in sorted((known[name].keys() | measured[name].keys()) - timed):
            before, now = known[name].get(metric), measured[name].get(metric)
            if before is None or now is None or not math.isclose(before, now, rel_tol=tolerance):
                found.append(f"{name}: {metric} was {before}, is {now}")
    return found


def other_data(baseline: Baseline, results: Results) -> list[str]:
    """Names of the data sets that both read, with other contents."""
    read = {source.name: source.digest for source in baseline.sources}
    return [source.name for source in results.sources if read.get(source.name, source.digest) != source.digest]


def by_name(rows: Iterable[Any]) -> dict[str, dict[str, float | None]]:
    """What rows, of a baseline or of results, measured, by what they are called here."""
    return {_name(row): row.metrics for row in rows}


def _name(row: Any) -> str:
    cut = row.ratio if row.ratio is not None else f"{row.structure_ratio} of structures"
    return f"{row.model} {row.label} {cut} {row.recovery} seed {row.seed}"
