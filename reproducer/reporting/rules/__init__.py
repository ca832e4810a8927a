"""The rules by which claims are judged: from a claim and a run to comparisons with effects and intervals."""

from __future__ import annotations

from collections.abc import Callable

from reproducer.paper import Claim
from reproducer.reporting.rules.dense import faster, reduces, retains
from reproducer.reporting.rules.evidence import Evidence, Found, Missing, Unit, Why
from reproducer.reporting.rules.pairs import better, most
from reproducer.reporting.rules.searches import converges, finds
from reproducer.reporting.rules.spreads import sensitivity, varies
from reproducer.reporting.runs import Run

__all__ = ["Evidence", "Found", "Missing", "Unit", "Why", "apply"]


def apply(run: Run, claim: Claim) -> Found:
    """By the claim's rule."""
    return RULES[claim.rule](run, claim)


def judged(run: Run, claim: Claim) -> Found:
    """By people, so not here."""
    return Found("points", "higher", None)


RULES: dict[str, Callable[[Run, Claim], Found]] = {
    "better": better,
    "most": most,
    "retains": retains,
    "varies": varies,
    "sensitivity": sensitivity,
    "converges": converges,
    "finds": finds,
    "reduces": reduces,
    "faster": faster,
    "judged": judged,
}
