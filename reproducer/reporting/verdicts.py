"""What the run says of each claim of the paper: a verdict by the claim's own rule, with its effect and its interval.

What counts is the method's variance: rows are paired by seed, an untuned row needs `SEEDS` of them and a tuned one
`TUNED_SEEDS`, and intervals are over seeds and items (`bootstrap`). A claim is judged by its least favourable
comparison: it is supported where every one is significantly in its favour, contradicted where one is significantly
against it. p-values are corrected after Holm over the claims of the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reproducer.paper import Claim, Paper
from reproducer.reporting.bootstrap import LEVEL, holm
from reproducer.reporting.comparison import reproduces
from reproducer.reporting.deviations import Deviation, deviations
from reproducer.reporting.rules import Evidence, Found, Missing, Unit, Why, apply
from reproducer.reporting.runs import Run
from reproducer.stages.results import Results

__all__ = ["Deviation", "Evidence", "Needs", "Verdict", "deviations", "verdicts"]

Outcome = Literal["supported", "contradicted", "inconclusive", "not tested"]
Reason = Literal[Why, "people", "some rows", "few seeds", "interval"]
SEEDS, TUNED_SEEDS = 5, 3
ALWAYS = ("model", "weights", "cut", "layers")  # topics of deviations that every verdict names
SEARCH = ("calibration", "trials", "sampler", "search_texts")
TUNING = ("recovery", "tuned_on", "examples", "learning_rate", "optimizer")
ACCURACY = ("tasks", "items", "prompts")


@dataclass(frozen=True)
class Needs:
    """What it would take to test a claim.

    Attributes:
        model: ours. trials: of a search, where the claim says how many.
        seeds: of each row.
        hours: of this machine, for what is missing, at what rows took here; None: nothing to go by.
    """

    model: str
    trials: int | None
    seeds: int
    hours: float | None


@dataclass(frozen=True)
class Verdict:
    """What the run says of a claim.

    Attributes:
        claim: its id. text: what is claimed, a sentence. where: in the paper, such as `Abstract` or `Table 1`.
        items: keys of the paper's items that it rests on, such as `table1`. headline: one of the abstract's.
        on: the label of our model that it was judged on; in_kind: it is another than the paper's.
        outcome, reason: `reason` says why it is inconclusive or not tested; None of the others.
        missing: rows or measures that the run does not have.
        unit, favourable: of the effects; whether a larger (`higher`) or a smaller effect is what the paper claims.
        threshold: what the effect is held against: 0 of a difference, 96.5 of "97 per cent"; None of no effect.
        paper, ours, low, high: effects; the interval has 95 per cent. Of several comparisons, the least favourable.
        paper_alike: see `Evidence`.
        favoured, opposed: how many comparisons are significantly for the claim, and against it, each by itself.
        p, p_holm: two-sided p of the claim; corrected over the claims of the report.
        seeds, seeds_needed: paired seeds behind `ours`, and how many the rule asks for of each comparison.
        detectable: the smallest distance from `threshold` that this run would have found in four of five repetitions.
        needs: of one that is not tested, or has too few seeds or rows.
        conditions: what differs from the paper's conditions.
        evidence: the comparisons behind it, the least favourable first.
    """

    claim: str
    text: str
    where: str
    items: tuple[str, ...]
    headline: bool
    on: str | None
    in_kind: bool
    outcome: Outcome
    reason: Reason | None
    missing: tuple[Missing, ...]
    unit: Unit
    favourable: Literal["higher", "lower"]
    threshold: float | None
    paper: float | None
    paper_alike: float | None
    favoured: int
    opposed: int
    ours: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    seeds: int
    seeds_needed: int
    detectable: float | None
    needs: Needs | None
    conditions: tuple[Deviation, ...]
    evidence: tuple[Evidence, ...]


def verdicts(results: Results, paper: Paper) -> list[Verdict]:
    """A verdict on each claim of the tables and figures that the spec reproduces, in the paper's order."""
    run = Run(results)
    items = set(reproduced(results))
    differ = deviations(results, paper)
    found = [_judge(run, claim, differ) for claim in paper.claims if items & set(claim.items)]
    corrected = holm([one.p for one in found])
    return [_settled(one, p) for one, p in zip(found, corrected, strict=True)]


def reproduced(results: Results) -> list[str]:
    """The keys of the paper's items that the spec reproduces, or of the specs that it includes."""
    runs = [results, *(results.of_part(part) for part in results.parts)]
    return ["".join(f"{kind}{number}" for kind, number in reproduces(run).items()) for run in runs]


def _settled(verdict: Verdict, p: float | None) -> Verdict:
    """With the corrected p: what is not significant by it is inconclusive."""
    if p is None or p < LEVEL or verdict.outcome not in ("supported", "contradicted"):
        return replace(verdict, p_holm=p)
    return replace(verdict, p_holm=p, outcome="inconclusive", reason="interval")


def _judge(run: Run, claim: Claim, differ: Sequence[Deviation]) -> Verdict:
    """By the claim's rule, p not corrected yet."""
    found = apply(run, claim)
    cases = sorted(found.cases, key=lambda case: case.favour)
    needed = found.seeds or (TUNED_SEEDS if found.tuned else SEEDS)
    outcome, reason, p = _outcome(claim, cases, found)
    worst = cases[0] if cases else None
    shown = worst.interval if worst else None
    model = run.model(claim)
    wanting = reason is not None and reason not in ("people", "interval", "set")
    decided = [case for case in cases if case.significant and _enough(case, found)]
    return Verdict(
        claim=claim.id,
        text=claim.text,
        where=claim.where,
        items=tuple(claim.items),
        headline=claim.headline,
        on=run.label_of(worst.model) if worst else None,
        in_kind=bool(model and run.papers.get(model.name) != model.name),
        outcome=outcome,
        reason=reason,
        missing=_lacking(found, reason),
        unit=found.unit,
        favourable=found.favourable,
        threshold=found.threshold,
        paper=worst.paper if worst else found.paper,
        paper_alike=worst.paper_alike if worst else None,
        favoured=sum(case.favour > 0 for case in decided),
        opposed=sum(case.favour < 0 for case in decided),
        ours=worst.ours if worst else None,
        low=shown.low if shown else None,
        high=shown.high if shown else None,
        p=p,
        p_holm=None,
        seeds=len(worst.seeds) if worst else 0,
        seeds_needed=needed,
        detectable=shown.detectable if shown else None,
        needs=Needs(model.label, claim.trials, needed, run.hours(found.needed, needed, claim.trials))
        if wanting and model
        else None,
        conditions=tuple(one for one in differ if one.topic in _topics(run, claim, cases)) + tuple(found.conditions),
        evidence=tuple(cases),
    )


def _outcome(claim: Claim, cases: Sequence[Evidence], found: Found) -> tuple[Outcome, Reason | None, float | None]:
    """What the cases say, and the p of that: two-sided, of the claim as a whole."""
    if claim.rule == "judged":
        return "not tested", "people", None
    if not cases:
        return "not tested", found.missing[0].why if found.missing else "no rows", None
    enough = [case for case in cases if _enough(case, found) and (case.exact or case.p is not None)]
    against = [case for case in enough if case.favour < 0]
    if enough == cases and all(case.exact for case in cases):
        return "contradicted" if against else "supported", None, None
    if against:  # one of several is enough, so the least p counts as often as there are comparisons
        return "contradicted", None, min(1.0, len(enough) * min(_p(case) for case in against))
    if found.missing:
        return "inconclusive", "some rows", None
    if len(enough) < len(cases):
        return "inconclusive", "few seeds", None
    return "supported", None, max(_p(case) for case in enough)


def _lacking(found: Found, reason: Reason | None) -> tuple[Missing, ...]:
    """What is missing, for the reason alone where that is why the claim is not tested."""
    whys = {one.why for one in found.missing}
    return tuple(dict.fromkeys(one for one in found.missing if reason not in whys or one.why == reason))


def _enough(case: Evidence, found: Found) -> bool:
    return len(case.seeds) >= (found.seeds or (SEEDS if case.recovery == "none" else TUNED_SEEDS))


def _p(case: Evidence) -> float:
    return 1.0 if case.p is None else case.p


def _topics(run: Run, claim: Claim, cases: Sequence[Evidence]) -> set[str]:
    """The topics of the conditions that a claim's rows depend on."""
    topics = {*ALWAYS}
    if any(run.searched(case.row) or (case.baseline and run.searched(case.baseline)) for case in cases):
        topics |= {*SEARCH}
    if any(case.recovery != "none" for case in cases):
        topics |= {*TUNING}
    keys = {key for case in cases for key in case.columns}
    topics |= {*ACCURACY} if any(key.endswith("_acc") for key in keys) else set()
    topics |= {"texts"} if any(key.endswith("_ppl") for key in keys) else set()
    return topics | ({"device"} if "latency_seconds" in keys else set())
