"""DDP, deterministic differentiable pruning (Huang et al. 2026): gates learned on text, the weights frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from reproducer.errors import UserError
from reproducer.methods.parameters import POSITIVE, check_number, whole_from
from reproducer.methods.registry import Decision, Request, TrainingJob, register
from reproducer.methods.training import text_loss, train_steps, trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reproducer.models.architecture import Architecture, Kind
    from reproducer.pruning.plan import Plan

MULTIPLIER = "multiplier"


@register("ddp", label="DDP", source="https://arxiv.org/abs/2603.08065", trains=True)
def ddp(
    steps: int = 80,
    batch: int = 8,
    learning_rate: float = 0.05,
    epsilon_start: float = 0.1,
    epsilon_end: float = 0.02,
    multiplier_rate: float = 2.0,
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
    numbers = {"learning_rate": learning_rate, "epsilon_start": epsilon_start, "epsilon_end": epsilon_end}
    numbers["multiplier_rate"] = multiplier_rate
    counts = {"steps": steps, "batch": batch}
    for name, value in numbers.items():
        check_number("ddp", name, value, *POSITIVE)
    for name, value in counts.items():
        check_number("ddp", name, value, *whole_from(1))
    if not isinstance(fold, bool):
        raise UserError(f"ddp's fold is {fold!r}; it is true or false")
    settings = {**numbers, **counts, "fold": fold}

    def train(job: TrainingJob) -> None:
        from reproducer.pruning.allocation import parameters_to_remove

        learn_gates(job, settings, parameters_to_remove(job.model, job.layers, job.cut))

    def decide(request: Request) -> Plan:
        from reproducer.pruning.allocation import parameters_to_remove

        gates = trained(request.trained)
        remove = parameters_to_remove(request.model, request.layers, request.cut)
        return cut_by_gates(request, gates, remove, fold)

    return Decision(decide, train=train, training=lambda samples, layers: (0, steps * batch, batch))


def learn_gates(job: TrainingJob, settings: Mapping[str, Any], remove: int) -> None:
    """Leave the gates `layer.kind` [units] in the job's directory.

    Args:
        settings: the method's parameters.
        remove: parameters that are to go; 0 leaves the gates to the loss alone.

    Raises:
        UserError: so many cannot go, or a loss is not finite.
    """
    import torch

    from reproducer.pruning.together import cut_together

    model, architecture = job.model, job.architecture
    wide = torch.float64 if architecture.head_of(model).weight.dtype == torch.float64 else torch.float32
    gates: dict[str, Tensor] = {}
    costs: dict[str, int] = {}
    for name, projection, units, cost in _gated(model, architecture, job.layers):
        gates[name] = torch.ones(units, dtype=wide, device=projection.weight.device, requires_grad=True)
        costs[name] = cost
        projection.register_forward_pre_hook(_multiplied(gates[name]))
    every = _by_layer(gates, job.layers)
    cut_together(model, architecture, every, remove, job.cut.round_to)  # before minutes are spent
    total = sum(costs[name] * len(gate) for name, gate in gates.items())
    target = 1 - remove / total
    multiplier = torch.zeros((), dtype=torch.float64)
    optimizer = torch.optim.Adam(gates.values(), lr=settings["learning_rate"])
    device = architecture.head_of(model).weight.device

    def step(number: int, ids: Tensor) -> float:
        progress = number / max(1, settings["steps"] - 1)
        epsilon = settings["epsilon_start"] * (settings["epsilon_end"] / settings["epsilon_start"]) ** progress
        loss = text_loss(job, ids)
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
    train_steps(job, state, optimizer, step, steps=settings["steps"], batch=settings["batch"], settings=all_settings)


def cut_by_gates(request: Request, gates: Mapping[str, Tensor], remove: int, fold: bool) -> Plan:
    """The plan without the structures of the smallest gates.

    Args:
        remove: parameters that go.
        fold: whether the plan's tensors hold the gates of the structures that stay.
    """
    import torch

    from reproducer.models.architecture import linear_at
    from reproducer.pruning.together import cut_together

    scores = {
        index: {kind: gate.detach().abs() for kind, gate in of_layer.items()}
        for index, of_layer in _by_layer(gates, request.layers).items()
    }
    kept = cut_together(request.model, request.architecture, scores, remove, request.cut.round_to)
    tensors = {}
    if fold:
        layers = request.architecture.decoder_layers(request.model)
        for index, of_layer in _by_layer(gates, request.layers).items():
            for kind, gate in of_layer.items():
                path = request.architecture.output(kind)
                weight = linear_at(layers[index], path).weight.detach()
                units = torch.tensor(kept[kind][index])
                columns = weight.cpu().unflatten(1, (len(gate), -1))[:, units].to(gate.dtype)
                folded = (columns * gate.detach()[units][:, None]).flatten(1).to(weight.dtype)
                tensors[f"{request.architecture.layers}.{index}.{path}.weight"] = folded
    return request.keep(kept["heads"], kept["channels"], tensors=tensors, scores=scores)


def _gated(
    model: nn.Module, architecture: Architecture, layers: list[int]
) -> Iterator[tuple[str, nn.Linear, int, int]]:
    """Of each layer and kind: the gates' name, the projection that they stand in front of, units, parameters a unit."""
    from reproducer.models.architecture import KINDS, layer_shape, linear_at, unit_parameters

    blocks = architecture.decoder_layers(model)
    for index in layers:
        for kind in KINDS:
            projection = linear_at(blocks[index], architecture.output(kind))
            units = layer_shape(blocks[index], architecture).units(kind)
            yield f"{index}.{kind}", projection, units, unit_parameters(blocks[index], architecture, kind)


def _by_layer(gates: Mapping[str, Tensor], layers: list[int]) -> dict[int, dict[Kind, Tensor]]:
    from reproducer.models.architecture import KINDS

    return {index: {kind: gates[f"{index}.{kind}"] for kind in KINDS} for index in layers}


def _multiplied(gate: Tensor) -> Callable:
    """A hook in front of a projection: the inputs of each unit, which lie side by side, times its gate."""

    def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        inputs, *others = arguments
        factors = gate.repeat_interleave(inputs.shape[-1] // len(gate))
        return (inputs * factors.to(inputs.dtype), *others)

    return hook
