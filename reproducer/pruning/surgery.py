"""Cut coupled structures out of a decoder layer's linear modules."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reproducer.models.architecture import KINDS, Architecture, Member, layer_shape, linear_at


def slice_linear(linear: nn.Linear, member: Member, vectors: Tensor) -> nn.Linear:
    """A new linear module with only the given rows (axis 0, with their biases) or columns (axis 1) of `linear`.

    Args:
        vectors: LongTensor of row or column indices to keep.
    """
    vectors = vectors.to(linear.weight.device)
    weight = linear.weight.detach().index_select(member.axis, vectors)
    bias: Tensor | None = linear.bias
    if bias is not None:
        bias = bias.detach().index_select(0, vectors) if member.axis == 0 else bias.detach().clone()
    smaller = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    smaller.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    if bias is not None:
        assert linear.bias is not None
        smaller.bias = nn.Parameter(bias, requires_grad=linear.bias.requires_grad)
    return smaller.train(linear.training)


def sliced_members(
    layer: nn.Module, architecture: Architecture, heads: Sequence[int] | None, channels: Sequence[int] | None
) -> dict[str, nn.Linear]:
    """New modules, by their path in `layer`, that keep only the given units; None keeps all of a kind."""
    shape = layer_shape(layer)
    modules: dict[str, nn.Linear] = {}
    for kind, kept in zip(KINDS, (heads, channels), strict=True):
        if kept is None or len(kept) == shape.units(kind):
            continue
        units = torch.tensor(kept, dtype=torch.long)
        for member in architecture.members(kind):
            width = shape.vectors_per_unit(member)
            vectors = (units[:, None] * width + torch.arange(width)).flatten()
            modules[member.module] = slice_linear(linear_at(layer, member.module), member, vectors)
    return modules


def place(layer: nn.Module, modules: dict[str, nn.Linear]) -> None:
    """Put `modules` into `layer`, and tell the attributes that state a width."""
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        setattr(layer.get_submodule(parent), name, module)
    mlp: Any = layer.get_submodule("mlp")
    if "mlp.down_proj" in modules and hasattr(mlp, "intermediate_size"):
        mlp.intermediate_size = modules["mlp.down_proj"].in_features


def sliced_layer(
    layer: nn.Module, architecture: Architecture, heads: Sequence[int] | None, channels: Sequence[int] | None
) -> nn.Module:
    """A layer that keeps only the given units and shares what is not cut with `layer`, which stays as it was."""
    smaller = _shallow(layer)
    for name, child in layer.named_children():
        smaller._modules[name] = _shallow(child)
    place(smaller, sliced_members(layer, architecture, heads, channels))
    return smaller


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
