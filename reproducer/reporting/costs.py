"""What a search has cost, what its trials would cost on the paper's model, and which parameters mattered."""

import re
from collections.abc import Mapping
from typing import Any

from reproducer.reporting.summary import seconds_text
from reproducer.reporting.tables import Table

PARAMETERS_7B = 6.74e9  # LLaMA-7B's
FORWARD, FORWARD_BACKWARD = 2, 6  # floating-point operations a parameter and token, as usually estimated
SPEED = 100e12  # floating-point operations a second that a GPU is taken to sustain


def flops_7b(costs: Mapping[str, Any]) -> float:
    """Operations that the trials of a search would take on LLaMA-7B, from its `sample_tokens` and `text_tokens`."""
    tokens = FORWARD_BACKWARD * costs["sample_tokens"] + FORWARD * costs["text_tokens"]
    return float(tokens * PARAMETERS_7B)


def costs_sentence(search: Mapping[str, Any]) -> list[str]:
    """The tokens that were spent, and the same trials at 7B; nothing where a search does not tell its costs."""
    if not (costs := search.get("costs")):
        return []
    operations = flops_7b(costs)
    return [
        f"Spent: {costs['trials']} trials, {costs['stopped']} of them stopped, in {seconds_text(costs['seconds'])}; "
        f"{costs['sample_tokens']:,} tokens of samples forward and backward, {costs['text_tokens']:,} tokens of texts "
        f"forward. On LLaMA-7B as many tokens would take {operations / 1e15:,.4g} PFLOP ({FORWARD} a parameter and "
        f"token forward, {FORWARD_BACKWARD} forward and backward, {PARAMETERS_7B / 1e9:.3g} billion parameters): "
        f"{seconds_text(operations / SPEED)} at {SPEED / 1e12:.0f} TFLOP/s."
    ]


def importances_table(search: Mapping[str, Any]) -> Table:
    """Shares of the parameters, the largest first; numbered ones, as of the samples, as their sum."""
    table = Table(["Parameter", "Importance"], "lr")
    families: dict[str, list[str]] = {}
    shares = search.get("importances") or {}
    for name in shares:
        families.setdefault(re.sub(r"_\d+$", "_…", name), []).append(name)
    summed = {
        f"{names[0]} … {names[-1]} (sum of {len(names)})" if len(names) > 1 else names[0]: sum(map(shares.get, names))
        for family in families.values()
        if (names := sorted(family, key=lambda name: [int(n) for n in re.findall(r"\d+$", name)]))
    }
    for name, share in sorted(summed.items(), key=lambda entry: -entry[1]):
        table.add(name, f"{100 * share:.1f}%")
    return table
