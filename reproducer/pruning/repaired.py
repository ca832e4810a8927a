"""A plan whose tensors repair what it cuts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from reproducer.models.products import wide_products
from reproducer.models.repair import repair
from reproducer.pruning.plan import Plan
from reproducer.pruning.scoring import check_samples


def repaired(plan: Plan, model: nn.Module, ids: Tensor, ridge: float | None = None) -> Plan:
    """The plan with new weights for the output and down projections, fitted by `reproducer.models.repair`.

    Args:
        model: the base model of the plan; it is left as it was.
        ids: LongTensor [samples, length] of token ids; some hundred samples of 128 tokens serve most models.
        ridge: λ of all projections; None: each has the best of several on every eighth sample.

    Raises:
        UserError: the plan is of another model, or samples and model do not suit.
    """
    check_samples(ids, model)
    smaller: Any = plan.apply(model)
    kept = sorted(plan.units.keys() - set(plan.removed_layers))
    layers = f"{plan.check(model).layers}."
    tensors = dict(plan.tensors)
    with wide_products(smaller.dtype, smaller.device):
        for result in repair(smaller, model, ids, layers=kept, ridge=ridge):
            for name, tensor in result.tensors.items():
                within = name.removeprefix(f"{layers}{result.layer}.")
                tensors[f"{layers}{kept[result.layer]}.{within}"] = tensor
    return replace(plan, tensors=tensors)
