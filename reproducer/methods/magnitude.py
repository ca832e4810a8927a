from __future__ import annotations

from reproducer.methods.parameters import Positive
from reproducer.methods.registry import Rule, register
from reproducer.pruning.statistics import Power


@register("magnitude", label="Magnitude", source="https://arxiv.org/abs/1510.00149", calibrated=False)
def magnitude(p: Positive = 2) -> Rule:
    """`Σ |w|^p` (Han et al. 2016; LLM-Pruner's l1 and l2)."""
    power = Power(p)
    return Rule((power,), lambda vectors, _: vectors[power])
