"""LLM-Pruner's three element-wise criteria (Ma et al. 2023), https://arxiv.org/abs/2305.11627."""

from __future__ import annotations

from reproducer.methods.registry import Rule, register
from reproducer.pruning.statistics import Element, Second

SOURCE = "https://arxiv.org/abs/2305.11627"


@register("llm-pruner-e1", label="LLM-Pruner-E1", source=SOURCE)
def first_order() -> Rule:
    """`Σ |w·ḡ|` (LLM-Pruner's `param_first`)."""
    return Rule((Element(0),), lambda vectors, _: vectors[Element(0)])


@register("llm-pruner-e2", label="LLM-Pruner-E2", source=SOURCE)
def second_order() -> Rule:
    """`Σ w²·F` with the diagonal Fisher F (LLM-Pruner's `param_second`)."""
    return Rule((Second(),), lambda vectors, _: vectors[Second()])


@register("llm-pruner-mix", label="LLM-Pruner-mix", source=SOURCE)
def mixed_order() -> Rule:
    """`Σ |w·ḡ − ½ w²·F|` (LLM-Pruner's `param_mix`; AdaPruner Eq. 4)."""
    return Rule((Element(1),), lambda vectors, _: vectors[Element(1)])
