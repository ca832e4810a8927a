"""The rules by which claims are judged: from a claim and a run to comparisons with effects and intervals."""

from __future__ import annotations

from collections.abc import Callable

from reproducer.paper.claims import Claim
from reproducer.reporting.rules.comparisons import better, most, retains
from reproducer.reporting.rules.evidence import RuleOutcome
from reproducer.reporting.rules.seeds import converges, finds, sensitivity, varies
from reproducer.reporting.runs import Run

RULES: dict[str, Callable[[Run, Claim], RuleOutcome]] = {
    "better": better,
    "most": most,
    "retains": retains,
    "varies": varies,
    "sensitivity": sensitivity,
    "converges": converges,
    "finds": finds,
    "none": lambda run, claim: RuleOutcome("points", "higher", 0.0),
}
