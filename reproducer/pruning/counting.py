"""Parameters, multiply-accumulates and memory of a model, or of a plan on it, from the architecture alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from reproducer.models.architecture import architecture_of, layer_shape, parameter_count
from reproducer.pruning.plan import Plan


@dataclass(frozen=True)
class Counts:
    """What a model costs.

    Attributes:
        parameters: all of them, tied embeddings counted once.
        macs: multiply-accumulates of one forward pass without a cache, for one sequence.
        weight_bytes: memory of the parameters.
    """

    parameters: int
    macs: int
    weight_bytes: int


def count(model: nn.Module, plan: Plan | None = None, *, length: int = 64, dtype: torch.dtype | None = None) -> Counts:
    """Count `model`, or what `plan` leaves of it; nothing is computed, so a model on the meta device will do.

    Multiply-accumulates are those of all linear layers at each of the `length` positions, the head included, and of
    attention's two products, whose length x length entries all count: kernels that skip the masked half do less. Norms,
    activations, softmax and rotations, below a thousandth together, do not count.

    Args:
        length: tokens of the sequence.
        dtype: of the weights; by default the model's own.

    Raises:
        UserError: the model's architecture is not declared, or the plan was made for another model.
    """
    architecture = architecture_of(model)
    parameters = parameter_count(model) if plan is None else plan.parameters_left(model)
    layers = architecture.decoder_layers(model)
    inside = {id(module) for module in layers.modules()}
    outside = [module for module in model.modules() if isinstance(module, nn.Linear) and id(module) not in inside]
    macs = length * sum(linear.weight.numel() for linear in outside)  # the head, and OPT's projections
    for index, layer in enumerate(layers):
        if plan is not None and index in plan.removed_layers:
            continue
        shape = layer_shape(layer, architecture)
        counts = shape.counts if plan is None else plan.counts(index)
        for kind in architecture.kinds:
            vectors = counts[kind.name] * sum(shape.vectors_per_unit(member) for member in kind.members)
            macs += length * shape.hidden * vectors
            if kind.attends:
                macs += 2 * length * length * counts[kind.name] * shape.queries_per_group * shape.head_dim
    size = (dtype or architecture.head_of(model).weight.dtype).itemsize
    return Counts(parameters, macs, parameters * size)
