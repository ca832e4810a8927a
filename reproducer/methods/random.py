from __future__ import annotations

from reproducer.methods.registry import Rule, register
from reproducer.pruning.statistics import Power


@register("random", label="Random", source="baseline without a criterion", calibrated=False, random=True)
def random() -> Rule:
    """Uniform noise from the seed."""
    import torch

    power = Power(2)  # only for its shape
    return Rule((power,), lambda vectors, generator: torch.rand(len(vectors[power]), generator=generator))
