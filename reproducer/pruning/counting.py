"""Parameters, multiply-accumulates and memory of a model, or of a plan on it, from the architecture alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from reproducer.models.architecture import (
    KINDS,
    Architecture,
    LayerShape,
    architecture_of,
    layer_shape,
    parameter_count,
)
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
    head: Any = architecture.head_of(model)
    macs = length * head.weight.numel()
    for index, layer in enumerate(architecture.decoder_layers(model)):
        shape = layer_shape(layer, architecture)
        kept = {kind: None if plan is None else plan.kept(kind, index) for kind in KINDS}
        units = {kind: shape.units(kind) if of_kind is None else len(of_kind) for kind, of_kind in kept.items()}
        macs += length * shape.hidden * _vectors(architecture, shape, units)
        queries = units["heads"] * shape.queries_per_group
        macs += 2 * length * length * queries * shape.head_dim
    size = (dtype or head.weight.dtype).itemsize
    return Counts(parameters, macs, parameters * size)


def _vectors(architecture: Architecture, shape: LayerShape, units: Any) -> int:
    """Rows and columns, each as long as the hidden size, that a layer's linear modules have with so many units."""
    return sum(units[kind] * shape.vectors_per_unit(member) for kind in KINDS for member in architecture.members(kind))
