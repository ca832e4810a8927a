"""A control of a search: no metric is searched and nothing is learned, samples are drawn and the best draw is kept."""

from __future__ import annotations

from reproducer.methods.llm_pruner import second_order
from reproducer.methods.registry import Decision, Rule, register
from reproducer.methods.space import Dimension, Scalar, Space
from reproducer.spec import Section


class SamplesAlone(Section, Space):
    """Nothing but the calibration samples is open; `search: {sampler: random}` draws them."""

    def dimensions(self) -> dict[str, Dimension]:
        return {}

    def points(self) -> dict[str, dict[str, Scalar]]:
        return {"llm-pruner-e2": {}}

    def restricted(self) -> bool:
        return True


@register("best-draw", label="E2, best draw", source="https://arxiv.org/abs/2305.11627", space=SamplesAlone)
def best_draw() -> Rule | Decision:
    """LLM-Pruner-E2 with the samples, of so many draws, whose pruned model has the lowest search objective."""
    return second_order.make()
