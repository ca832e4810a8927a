"""What the run says of each claim of the paper: a verdict by the claim's own rule, with its effect and its interval.

What counts is the method's variance: rows are paired by seed, an untuned row needs `SEEDS` of them and a tuned one
`TUNED_SEEDS`, and intervals are over seeds and items (`bootstrap`). A claim is judged by its least favourable
comparison: it is supported where every one is significantly in its favour, contradicted where one is significantly
against it. p-values are corrected after Holm over the claims of the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from reproducer.paper import Claim, Paper
from reproducer.reporting.bootstrap import LEVEL, holm
from reproducer.reporting.comparison import reproduces
from reproducer.reporting.deviations import Deviation, deviations
from reproducer.reporting.rules import RULES
from reproducer.reporting.rules.evidence import Evidence, Missing, RuleOutcome, Unit, Why
from reproducer.reporting.runs import Run
from reproducer.stages.results import Results

Outcome = Literal["supported", "contradicted", "inconclusive", "not tested"]
Reason = Literal[Why, "people", "some rows", "few seeds", "interval"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
SEEDS, TUNED_SEEDS = 5, 3
FEW = 12  # verdicts that the first screen of a report has room for
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
    """

    model: str
    trials: int | None
    seeds: int


@dataclass(frozen=True)
class Verdict:
    """What the run says of a claim.

    Attributes:
        claim: its id. text: what is claimed, a sentence. where: in the paper, such as `Abstract` or `Table 1`.
        headline: it is one of the abstract's. on: the label of our model that it was judged on.
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
    headline: bool
    on: str | None
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
    judged = [_judge(run, claim, differ) for claim in paper.claims if items & set(claim.items)]
    corrected = holm([verdict.p for verdict in judged])
    return [_corrected(verdict, p) for verdict, p in zip(judged, corrected, strict=True)]


def reproduced(results: Results) -> list[str]:
    """The keys of the paper's items that the spec reproduces, or of the specs that it includes."""
    runs = [results, *(results.of_part(part) for part in results.parts)]
    return ["".join(f"{kind}{number}" for kind, number in reproduces(run).items()) for run in runs]


def _corrected(verdict: Verdict, p: float | None) -> Verdict:
    """With the corrected p: what is not significant by it is inconclusive."""
    if p is None or p < LEVEL or verdict.outcome not in ("supported", "contradicted"):
        return replace(verdict, p_holm=p)
    return replace(verdict, p_holm=p, outcome="inconclusive", reason="interval")


def _judge(run: Run, claim: Claim, differ: Sequence[Deviation]) -> Verdict:
    """By the claim's rule, p not corrected yet."""
    ruled = RULES[claim.rule](run, claim)
    evidence = sorted(ruled.evidence, key=lambda case: case.favour)
    needed = ruled.seeds or (TUNED_SEEDS if ruled.tuned else SEEDS)
    outcome, reason, p = _outcome(claim, evidence, ruled)
    worst = evidence[0] if evidence else None
    shown = worst.interval if worst else None
    model = run.model(claim)
    wanting = reason is not None and reason not in ("people", "interval", "set")
    decided = [case for case in evidence if case.significant and _enough(case, ruled)]
    topics = _topics(run, evidence)
    return Verdict(
        claim=claim.id,
        text=claim.text,
        where=claim.where,
        headline=claim.headline,
        on=run.label_of(worst.model) if worst else None,
        outcome=outcome,
        reason=reason,
        missing=_lacking(ruled, reason),
        unit=ruled.unit,
        favourable=ruled.favourable,
        threshold=ruled.threshold,
        paper=worst.paper if worst else ruled.paper,
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
        needs=Needs(model.label, claim.trials, needed) if wanting and model else None,
        conditions=tuple(deviation for deviation in differ if deviation.topic in topics) + tuple(ruled.conditions),
        evidence=tuple(evidence),
    )


def _outcome(
    claim: Claim, evidence: Sequence[Evidence], ruled: RuleOutcome
) -> tuple[Outcome, Reason | None, float | None]:
    """What the comparisons say, and the p of that: two-sided, of the claim as a whole."""
    if claim.rule == "judged":
        return "not tested", "people", None
    if not evidence:
        return "not tested", ruled.missing[0].why if ruled.missing else "no rows", None
    enough = [case for case in evidence if _enough(case, ruled) and (case.exact or case.p is not None)]
    against = [case for case in enough if case.favour < 0]
    if enough == evidence and all(case.exact for case in evidence):
        return "contradicted" if against else "supported", None, None
    if against:  # one of several is enough, so the least p counts as often as there are comparisons
        return "contradicted", None, min(1.0, len(enough) * min(_p(case) for case in against))
    if ruled.missing:
        return "inconclusive", "some rows", None
    if len(enough) < len(evidence):
        return "inconclusive", "few seeds", None
    return "supported", None, max(_p(case) for case in enough)


def _lacking(ruled: RuleOutcome, reason: Reason | None) -> tuple[Missing, ...]:
    """What is missing, for the reason alone where that is why the claim is not tested."""
    whys = {missing.why for missing in ruled.missing}
    return tuple(missing for missing in ruled.missing if reason not in whys or missing.why == reason)


def _enough(case: Evidence, ruled: RuleOutcome) -> bool:
    return len(case.seeds) >= (ruled.seeds or (SEEDS if case.recovery == "none" else TUNED_SEEDS))


def _p(case: Evidence) -> float:
    return 1.0 if case.p is None else case.p


def _topics(run: Run, evidence: Sequence[Evidence]) -> set[str]:
    """The topics of the conditions that a claim's rows depend on."""
    topics = {*ALWAYS}
    if any(run.searched(case.row) or (case.baseline and run.searched(case.baseline)) for case in evidence):
        topics |= {*SEARCH}
    if any(case.recovery != "none" for case in evidence):
        topics |= {*TUNING}
    keys = {key for case in evidence for key in case.columns}
    topics |= {*ACCURACY} if any(key.endswith("_acc") for key in keys) else set()
    topics |= {"texts"} if any(key.endswith("_ppl") for key in keys) else set()
    return topics | ({"device"} if "latency_seconds" in keys else set())


def first_screen(found: Sequence[Verdict]) -> list[tuple[int, Verdict]]:
    """The verdicts that a first screen has room for, with their numbers: the abstract's, then others by outcome.

    All others or, where they are many, those that are decided.
    """
    numbered = [*enumerate(found, start=1)]
    abstract = [one for one in numbered if one[1].headline]
    decided = ("supported", "contradicted") if len(found) > FEW else OUTCOMES
    others = [one for of in decided for one in numbered if one[1].outcome == of and one not in abstract]
    return [*abstract, *others] or numbered
