"""A control of a search: no metric is searched and nothing is learned, samples are drawn and the best draw is kept."""

from __future__ import annotations

from collections.abc import Mapping

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

    def default(self) -> dict[str, Scalar]:
        return {}

    def restricted(self) -> bool:
        return True

    def void(self, parameters: Mapping[str, Scalar]) -> bool:
        return False


@register("best-draw", label="E2, best draw", source="https://arxiv.org/abs/2305.11627", space=SamplesAlone)
def best_draw() -> Rule | Decision:
    """LLM-Pruner-E2 with the samples, of so many draws, whose pruned model has the lowest search objective."""
    return second_order.make()
