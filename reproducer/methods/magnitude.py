from __future__ import annotations

from math import inf

from reproducer.errors import UserError
from reproducer.methods.registry import Rule, register


@register("magnitude", label="Magnitude", source="https://arxiv.org/abs/1510.00149", calibrated=False)
def magnitude(p: float = 2) -> Rule:
    """`Σ |w|^p` (Han et al. 2016; LLM-Pruner's l1 and l2)."""
    from reproducer.pruning.statistics import Power

    if not (isinstance(p, int | float) and 0 < p < inf):
        raise UserError(f"magnitude's p is {p!r}; it is an exponent above 0")
    power = Power(p)
    return Rule((power,), lambda vectors, _: vectors[power])
