from __future__ import annotations

from reproducer.methods.registry import Rule, register
from reproducer.pruning.statistics import First


@register("vector", label="Vector", source="https://arxiv.org/abs/2305.11627")
def vector() -> Rule:
    """`|Σ w·ḡ|` of a whole vector (LLM-Pruner's `vectorize`; AdaPruner Eq. 2)."""
    return Rule((First(),), lambda vectors, _: vectors[First()].abs())
