"""Structured second order with the inverse Gram matrix of a projection's inputs: ZipLM's and OSSCAR's criterion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from reproducer.methods.parameters import Count, Positive
from reproducer.methods.registry import Decision, Request, register

if TYPE_CHECKING:
    from torch import Tensor

    from reproducer.pruning.plan import Plan


@register("obs", label="OBS", source="https://arxiv.org/abs/2302.04089")
def obs(ridge: Positive = 0.01, together: Count = 1) -> Decision:
    """By how much the output of the projection changes without a unit, when its other weights make up for it.

    With H = XᵀX + λ·mean(diag XᵀX)·I of what goes into the output or the down projection of the dense model, and W its
    weight, a unit with the inputs j costs `½·tr(W_j [(H⁻¹)_jj]⁻¹ W_jᵀ)`. The cheapest goes, W makes up for it
    (`W −= W_j [(H⁻¹)_jj]⁻¹ (H⁻¹)_j,:`), H⁻¹ loses its rows and columns, and so on (Kurtic et al. 2023, ZipLM, Eq. 2 to
    4; OSSCAR removes several at a time). A unit's score is its cost when it went. Weights are not changed: the recovery
    `least-squares` does that better, since it sees what the layers before have lost.

    Args:
        ridge: λ.
        together: channels that go at once, all by their costs before the first of them; a larger number is quicker.
    """
    from reproducer.pruning.statistics import InputSquare

    def decide(request: Request) -> Plan:
        scores: dict[int, dict[str, Tensor]] = {}
        for index, grams in _grams(request):
            scores[index] = {}
            for kind, units in request.units(index).items():
                weight = request.output(index, kind)[1].weight.detach().to(grams[kind].dtype)
                at_once = together if request.architecture.kind(kind).fine else 1
                scores[index][kind] = removal_costs(weight, grams[kind], units, ridge, at_once).cpu()
        return request.plan(scores)

    return Decision(decide, passes=((InputSquare(),),))


def removal_costs(weight: Tensor, gram: Tensor, units: int, ridge: float, together: int = 1) -> Tensor:
    """What each unit costs when it is removed, cheapest first; never less than the ones before it.

    Args:
        weight: [outputs, inputs]; units own inputs side by side.
        gram: [inputs, inputs], XᵀX.

    Returns:
        [units], in the dtype of `gram`.
    """
    import torch

    width = gram.shape[0] // units
    damped = gram.clone()
    damped.diagonal().add_(ridge * gram.diagonal().mean().clamp(min=torch.finfo(gram.dtype).tiny))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    weight = weight.clone()
    left = torch.arange(units, device=gram.device)
    costs = torch.empty(units, dtype=gram.dtype, device=gram.device)
    highest = costs.new_zeros(())
    while len(left):
        blocks = inverse.view(len(left), width, len(left), width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        of_units = weight.view(-1, len(left), width).permute(1, 2, 0)  # [units, width, outputs]
        cost = (of_units * torch.linalg.solve(blocks, of_units)).sum((1, 2)) / 2
        gone = cost.argsort(stable=True)[:together]
        for unit in gone.tolist():
            highest = torch.maximum(highest, cost[unit])
            costs[left[unit]] = highest
        inputs = (gone[:, None] * width + torch.arange(width, device=gram.device)).flatten()
        stay = torch.ones(len(inverse), dtype=torch.bool, device=gram.device)
        stay[inputs] = False
        factor = torch.linalg.solve(inverse[inputs][:, inputs], inverse[inputs][:, stay])  # [(H⁻¹)_jj]⁻¹ (H⁻¹)_j,:
        weight = weight[:, stay] - weight[:, inputs] @ factor
        inverse = inverse[stay][:, stay] - inverse[stay][:, inputs] @ factor
        left = left[stay.view(len(left), width)[:, 0]]
    return costs


def _grams(request: Request) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """XᵀX by layer and kind of unit, from the calibration samples, one layer at a time."""
    import torch

    from reproducer.models.walk import BATCH_TOKENS, LayerWalk

    assert request.ids is not None
    walk = LayerWalk(request.model, request.ids.shape[1])
    wide = torch.float64 if request.head.dtype == torch.float64 else torch.float32
    with torch.no_grad():
        states = [walk.embed(batch) for batch in request.ids.split(max(1, BATCH_TOKENS // request.ids.shape[1]))]
        for index in range(request.layers[-1] + 1):
            grams: dict[str, Tensor] = {}
            hooks = []
            for kind in request.units(index) if index in request.layers else ():
                linear = request.output(index, kind)[1]
                grams[kind] = torch.zeros(linear.in_features, linear.in_features, dtype=wide, device=walk.device)

                def add(module, arguments, gram=grams[kind]) -> None:
                    inputs = arguments[0].flatten(0, -2).to(wide)
                    gram.addmm_(inputs.T, inputs)

                hooks.append(linear.register_forward_pre_hook(add))
            states = [walk.run(index, hidden) for hidden in states]
            for hook in hooks:
                hook.remove()
            if grams:
                yield index, grams
