"""DDP, deterministic differentiable pruning (Huang et al. 2026): gates learned on text, the weights frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from reproducer.methods.parameters import Count, Positive
from reproducer.methods.registry import Decision, Request, register
from reproducer.methods.training import by_layer, train_steps, trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reproducer.pruning.plan import Plan

MULTIPLIER = "multiplier"


@register("ddp", label="DDP", source="https://arxiv.org/abs/2603.08065", trains=True)
def ddp(
    steps: Count = 80,
    batch: Count = 8,
    learning_rate: Positive = 0.05,
    epsilon_start: Positive = 0.1,
    epsilon_end: Positive = 0.02,
    multiplier_rate: Positive = 2.0,
    fold: bool = False,
) -> Decision:
    """Gates on heads and channels, learned by the loss on the samples while a target of gates at zero is reached.

    One gate `g` a structure, 1 at first, multiplies what goes into the output projection (of a head, or of a key-value
    group) or the down projection (of a channel). Adam minimises `loss + λ·(share − target)`: the mean next-token loss,
    and the share of the parameters in the layers to prune whose gate is not zero. For "not zero" stands the
    deterministic surrogate `(1 + ε)·g²/(g² + ε)` of the L0 norm, which is 1 at 1; ε falls geometrically from step to
    step. λ starts at 0, rises by `multiplier_rate·(share − target)` a step while too much is left, and falls, never
    below 0, while too little is.

    The structures with the smallest `|g|` go, of both kinds and all layers together, until the requested share of
    parameters is reached; of a structure ratio it is the share that the same ratio of every layer's units would be.

    The point is the source's: a deterministic surrogate, sharpened while gates learn, in place of random gates. Its
    form, the schedule and all defaults are choices made here, on a model of 135 million parameters.

    Args:
        steps: optimiser steps, each on `batch` of the calibration samples; 640 samples are seen once by default.
        learning_rate: Adam's.
        epsilon_start, epsilon_end: ε of the first and the last step; the smaller, the sharper the surrogate.
        multiplier_rate: of λ.
        fold: multiply the columns of the projections by the gates that stay, which the plan then carries. Gates may
            grow beyond 1, and fit the domain of the samples more closely: on texts of another domain that costs more
            than it gains. By default gates keep within 0 and 1 while they learn, and those that stay count as 1.
    """
    settings: dict[str, Any] = dict(locals())  # nothing but the parameters so far

    return Decision(
        lambda request: cut_by_gates(request, trained(request.directory), fold),
        train=lambda request: learn_gates(request, settings, request.parameters_to_remove()),
        training=lambda samples, layers: (0, steps * batch, batch),
    )


def learn_gates(request: Request, settings: Mapping[str, Any], remove: int) -> None:
    """Leave the gates `layer.kind` [units] in the request's directory.

    Args:
        settings: the method's parameters.
        remove: parameters that are to go; 0 leaves the gates to the loss alone.

    Raises:
        UserError: so many cannot go, or a loss is not finite.
    """
    import torch

    from reproducer.models.loss import text_losses

    device, wide = request.head.device, torch.promote_types(request.head.dtype, torch.float32)
    gates: dict[str, Tensor] = {}
    costs: dict[str, int] = {}
    for index in request.layers:
        parameters = request.unit_parameters(index)
        for kind, units in request.units(index).items():
            name, (_, projection) = f"{index}.{kind}", request.output(index, kind)
            gates[name] = torch.ones(units, dtype=wide, device=projection.weight.device, requires_grad=True)
            costs[name] = parameters[kind]
            projection.register_forward_pre_hook(_multiplied(gates[name]))
    request.remove_lowest(by_layer(request, gates), remove)  # raises, before minutes are spent
    total = sum(costs[name] * len(gate) for name, gate in gates.items())
    target = 1 - remove / total
    multiplier = torch.zeros((), dtype=torch.float64)
    optimizer = torch.optim.Adam(gates.values(), lr=settings["learning_rate"])

    def step(number: int, ids: Tensor) -> float:
        progress = number / max(1, settings["steps"] - 1)
        epsilon = settings["epsilon_start"] * (settings["epsilon_end"] / settings["epsilon_start"]) ** progress
        loss = text_losses(request.model, ids).mean()
        open_ = {name: (1 + epsilon) * gate.square() / (gate.square() + epsilon) for name, gate in gates.items()}
        share = torch.stack([costs[name] * values.sum().to(device) for name, values in open_.items()]).sum() / total
        optimizer.zero_grad()
        (loss + float(multiplier) * share).backward()
        optimizer.step()
        if not settings["fold"]:
            with torch.no_grad():
                for gate in gates.values():
                    gate.clamp_(0, 1)
        if remove:
            multiplier.add_(settings["multiplier_rate"] * (float(share.detach()) - target)).clamp_(min=0)
        return float(loss.detach())

    state = {**gates, MULTIPLIER: multiplier}
    all_settings = {**settings, "remove": remove}
    train_steps(
        request, state, optimizer, step, steps=settings["steps"], batch=settings["batch"], settings=all_settings
    )


def cut_by_gates(request: Request, gates: Mapping[str, Tensor], fold: bool, remove: int | None = None) -> Plan:
    """The plan without the structures of the smallest gates.

    Args:
        fold: whether the plan's tensors hold the gates of the structures that stay.
        remove: parameters that go; None: those of the cut.
    """
    import torch

    gates_by_layer = by_layer(request, gates)
    scores = {index: {kind: gate.abs() for kind, gate in of.items()} for index, of in gates_by_layer.items()}
    kept = request.remove_lowest(scores, remove)
    tensors = {}
    for index, of_layer in gates_by_layer.items() if fold else ():
        for kind, gate in of_layer.items():
            name, projection = request.output(index, kind)
            weight, units = projection.weight.detach(), torch.tensor(kept[kind][index])
            columns = weight.cpu().unflatten(1, (len(gate), -1))[:, units].to(gate.dtype)
            tensors[f"{name}.weight"] = (columns * gate[units][:, None]).flatten(1).to(weight.dtype)
    return request.keep(kept, tensors=tensors, scores=scores)


def _multiplied(gate: Tensor) -> Callable:
    """A hook in front of a projection: the inputs of each unit, which lie side by side, times its gate."""

    def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        inputs, *others = arguments
        factors = gate.repeat_interleave(inputs.shape[-1] // len(gate))
        return (inputs * factors.to(inputs.dtype), *others)

    return hook
