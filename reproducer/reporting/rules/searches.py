"""Rules that hold a search against another: the trials until it `converges`, and the objective that it `finds`."""

from __future__ import annotations

import numpy as np

from reproducer.paper import Claim, load_item
from reproducer.reporting.bootstrap import Array, Interval, interval
from reproducer.reporting.rules.effects import log_ratio, mapped, percent_change
from reproducer.reporting.rules.evidence import Evidence, Found, Missing
from reproducer.reporting.runs import Run
from reproducer.reporting.searches import NEAR, best_so_far, counted, trials_until


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


def converges(run: Run, claim: Claim) -> Found:
    """How many trials sooner a search comes near its own best."""
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


def finds(run: Run, claim: Claim) -> Found:
    """By how much a search's best objective is lower."""
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
