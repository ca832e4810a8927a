"""Structured second order with the inverse Gram matrix of a projection's inputs: ZipLM's and OSSCAR's criterion.

`obs` counts all outputs of a projection alike; `obs-fisher` weighs each by its Fisher information, so that costs of
different layers are comparable.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from reproducer.methods.parameters import Count, Positive
from reproducer.methods.registry import Decision, Request, register
from reproducer.pruning.statistics import First, InputSquare

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reproducer.pruning.plan import Plan

AT_ONCE = 1024  # tokens whose activations in all layers are kept for the backward pass


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
    return Decision(partial(_decide, ridge=ridge, together=together), passes=((InputSquare(),),))


@register("obs-fisher", label="OBS-Fisher", source="https://arxiv.org/abs/2302.04089; the weights of outputs are ours")
def obs_fisher(ridge: Positive = 0.03, together: Count = 16) -> Decision:
    """`obs` with each output d of a projection weighed by its Fisher information: W_dj counts √F_d times.

    F_d is the mean over tokens of the squared gradient of the loss with respect to output d. A cost is then the loss
    that second order expects, when the projection's other weights make up for the unit: `scope: global` and a
    least-squares repair suit it (reports/benchmarks/repair.md).

    Args:
        ridge: λ.
        together: channels that go at once, all by their costs before the first of them; a larger number is quicker.
    """
    return Decision(
        partial(_decide, ridge=ridge, together=together, fisher=True), passes=((InputSquare(),), (First(),))
    )


def _decide(request: Request, ridge: float, together: int, fisher: bool = False) -> Plan:
    information = output_information(request) if fisher else {}
    scores: dict[int, dict[str, Tensor]] = {}
    for index, grams in _grams(request):
        scores[index] = {}
        for kind, units in request.units(index).items():
            weight = request.output(index, kind)[1].weight.detach().to(grams[kind].dtype)
            if fisher:
                weight = information[index, kind].sqrt()[:, None] * weight
            at_once = together if request.architecture.kind(kind).fine else 1
            scores[index][kind] = removal_costs(weight, grams[kind], units, ridge, at_once).cpu()
    return request.plan(scores)


def output_information(request: Request) -> dict[tuple[int, str], Tensor]:
    """F [outputs] of each layer's projections: over all tokens the mean squared gradient of the loss.

    The loss is the mean next-token loss of each sample. Layers below the first that is cut are not differentiated.
    """
    import torch

    from reproducer.models.walk import LayerWalk

    assert request.ids is not None
    walk = LayerWalk(request.model, request.ids.shape[1])
    wide = torch.promote_types(request.head.dtype, torch.float32)
    total: dict[tuple[int, str], Tensor] = {}

    def watch(key: tuple[int, str], module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        def add(gradient: Tensor) -> None:
            total[key] += gradient.to(wide).flatten(0, -2).square().sum(0)

        total.setdefault(key, torch.zeros(output.shape[-1], dtype=wide, device=output.device))
        output.register_hook(add)

    keys = [(index, kind) for index in request.layers for kind in request.units(index)]
    hooks = [request.output(*key)[1].register_forward_hook(partial(watch, key)) for key in keys]
    try:
        for batch in request.ids.split(max(1, AT_ONCE // request.ids.shape[1])):
            with torch.no_grad():
                hidden = walk.embed(batch)
                for index in range(request.layers[0]):
                    hidden = walk.run(index, hidden)
            with torch.enable_grad():
                hidden = below = hidden.detach().requires_grad_()
                for index in range(request.layers[0], len(walk.layers)):
                    hidden = walk.run(index, hidden)
                torch.autograd.grad(walk.losses(hidden, batch).mean(1).sum(), below)
    finally:
        for hook in hooks:
            hook.remove()
    return {key: squares / request.ids.numel() for key, squares in total.items()}


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
    wide = torch.promote_types(request.head.dtype, torch.float32)
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
