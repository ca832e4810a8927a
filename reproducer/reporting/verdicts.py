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

from reproducer.paper.claims import Claim, Paper
from reproducer.reporting.bootstrap import LEVEL, holm
from reproducer.reporting.comparison import reproduced
from reproducer.reporting.rules import RULES
from reproducer.reporting.rules.evidence import Evidence, RuleOutcome, Why
from reproducer.reporting.runs import Run
from reproducer.stages.results import Results

Outcome = Literal["supported", "contradicted", "inconclusive", "not tested"]
Reason = Literal[Why, "untestable", "some rows", "few seeds", "interval"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
SEEDS, TUNED_SEEDS = 5, 3
FEW = 12  # verdicts that the first screen of a report has room for


@dataclass(frozen=True)
class Verdict:
    """What the run says of a claim.

    Attributes:
        number: of the claim among those of the report, from 1.
        outcome, reason: `reason` says why it is inconclusive or not tested; None of the others.
        ruled: what the claim's rule made of the run.
        evidence: the comparisons behind it, the least favourable first.
        p, p_holm: two-sided p of the claim; corrected over the claims of the report.
    """

    number: int
    claim: Claim
    outcome: Outcome
    reason: Reason | None
    ruled: RuleOutcome
    evidence: tuple[Evidence, ...]
    p: float | None
    p_holm: float | None = None

    @property
    def worst(self) -> Evidence | None:
        """The least favourable comparison, which stands for the claim."""
        return self.evidence[0] if self.evidence else None

    @property
    def paper(self) -> float | None:
        """The paper's effect."""
        return self.worst.paper if self.worst else self.ruled.paper

    @property
    def seeds_needed(self) -> int:
        return TUNED_SEEDS if self.ruled.tuned else SEEDS

    @property
    def agreeing(self) -> int:
        """How many comparisons are significantly as claimed, each by itself."""
        return sum(case.significant and _enough(case) and case.favour > 0 for case in self.evidence)


def verdicts(results: Results, paper: Paper) -> list[Verdict]:
    """A verdict on each claim of the tables and figures that the spec reproduces, in the paper's order."""
    run, items = Run(results), {*reproduced(results)}
    claims = [claim for claim in paper.claims if items & {*claim.items}]
    judged = [_judge(run, claim, number) for number, claim in enumerate(claims, start=1)]
    corrected = holm([verdict.p for verdict in judged])
    return [_corrected(verdict, p) for verdict, p in zip(judged, corrected, strict=True)]


def _corrected(verdict: Verdict, p: float | None) -> Verdict:
    """With the corrected p: what is not significant by it is inconclusive."""
    if p is None or p < LEVEL or verdict.outcome not in ("supported", "contradicted"):
        return replace(verdict, p_holm=p)
    return replace(verdict, p_holm=p, outcome="inconclusive", reason="interval")


def _judge(run: Run, claim: Claim, number: int) -> Verdict:
    """By the claim's rule, p not corrected yet."""
    ruled = RULES[claim.rule](run, claim)
    evidence = sorted(ruled.evidence, key=lambda case: case.favour)
    outcome, reason, p = _outcome(claim, evidence, ruled)
    return Verdict(number, claim, outcome, reason, ruled, tuple(evidence), p)


def _outcome(
    claim: Claim, evidence: Sequence[Evidence], ruled: RuleOutcome
) -> tuple[Outcome, Reason | None, float | None]:
    """What the comparisons say, and the p of that: two-sided, of the claim as a whole."""
    if claim.rule == "none":
        return "not tested", "untestable", None
    if not evidence:
        return "not tested", ruled.missing[0].why if ruled.missing else "no rows", None
    enough = [(case, case.p) for case in evidence if _enough(case) and case.p is not None]
    against = [p for case, p in enough if case.favour < 0 and p is not None]
    if against:  # one of several is enough, so the least p counts as often as there are comparisons
        return "contradicted", None, min(1.0, len(enough) * min(against))
    if ruled.missing:
        return "inconclusive", "some rows", None
    if len(enough) < len(evidence):
        return "inconclusive", "few seeds", None
    return "supported", None, max(p for _, p in enough if p is not None)


def _enough(case: Evidence) -> bool:
    return len(case.seeds) >= (SEEDS if case.recovery == "none" else TUNED_SEEDS)


def first_screen(found: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts that a first screen has room for: all or, of many, the abstract's and those that are decided."""
    decided = [one for one in found if one.outcome in ("supported", "contradicted")]
    abstract = [one for one in found if one.claim.headline]
    return [*found] if len(found) <= FEW else [*abstract, *(one for one in decided if one not in abstract)]
