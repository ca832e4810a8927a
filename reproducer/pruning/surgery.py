"""Cut coupled structures out of a decoder layer, and whole layers out of a model."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reproducer.models.architecture import LayerShape, family_of, layer_shape, linear_at
from reproducer.models.declaration import Architecture, Kind, Member, Norm
from reproducer.models.export.pruned import LayerConfig

PER_LAYER = ("layer_types", "no_rope_layers")  # lists in a configuration that have an entry a layer


def sliced_layer(layer: nn.Module, architecture: Architecture, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A layer that keeps only the given units and shares what is not cut with `layer`, which stays as it was."""
    smaller = _shallow(layer)
    for name, child in layer.named_children():
        smaller._modules[name] = _shallow(child)
    place(smaller, architecture, sliced_members(layer, architecture, kept))
    return smaller


def sliced_members(
    layer: nn.Module, architecture: Architecture, kept: Mapping[str, Sequence[int]]
) -> dict[str, nn.Module]:
    """New modules, by their path in `layer`, that keep only these units {kind: units}; all of absent kinds."""
    shape = layer_shape(layer, architecture)
    modules: dict[str, nn.Module] = {}
    for kind in architecture.kinds:
        if len(kept.get(kind.name, range(shape.counts[kind.name]))) == shape.counts[kind.name]:
            continue
        units = torch.tensor(kept[kind.name], dtype=torch.long)
        for path, axis in kind.modules().items():
            members = [member for member in kind.members if member.module == path]
            vectors = torch.cat([_vectors(shape, kind, member, units) for member in members])
            modules[path] = _sliced_linear(linear_at(layer, path), axis, vectors)
        for norm in kind.norms:
            modules[norm.module] = _sliced_norm(layer.get_submodule(norm.module), _vectors(shape, kind, norm, units))
    return modules


def place(layer: nn.Module, architecture: Architecture, modules: Mapping[str, nn.Module]) -> None:
    """Put what `sliced_members` made into `layer`, and tell the attributes that state a width."""
    if not modules:
        return
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        setattr(layer.get_submodule(parent), name, module)
    shape = layer_shape(layer, architecture)
    for width in architecture.widths:
        module = layer.get_submodule(width.module)
        owner, _, name = width.attribute.rpartition(".")
        if owner:
            setattr(module, owner, LayerConfig(getattr(module, owner), **{name: shape.number(width.counts)}))
        else:
            setattr(module, name, shape.number(width.counts))


def remove_layers(model: nn.Module, indices: Collection[int]) -> None:
    """Take whole decoder layers out of `model`, in place.

    The layers that stay keep what they are (their attention's window, whether they rotate); their places in the
    key-value cache and the configuration's entries of each layer follow.
    """
    if not indices:
        return
    config: Any = model.config
    architecture = family_of(config)
    layers = architecture.decoder_layers(model)
    kept = [index for index in range(len(layers)) if index not in set(indices)]
    for name in PER_LAYER:
        values = getattr(config, name, None)
        if values is not None:
            setattr(config, name, [values[index] for index in kept])
    config.num_hidden_layers = len(kept)
    architecture.decoder_of(model).layers = nn.ModuleList([layers[index] for index in kept])
    for position, index in enumerate(kept):
        modules: Iterable[Any] = layers[index].modules()
        for module in modules:
            if hasattr(module, "layer_idx"):
                module.layer_idx = position


def _vectors(shape: LayerShape, kind: Kind, member: Member | Norm, units: Tensor) -> Tensor:
    """Rows or columns of `member`'s weight that belong to `units`."""
    width = shape.vectors_per_unit(member)
    start = shape.span(kind, member).start if isinstance(member, Member) else 0
    return (start + units[:, None] * width + torch.arange(width)).flatten()


def _sliced_linear(linear: nn.Linear, axis: int, vectors: Tensor) -> nn.Linear:
    """A new linear module with only these rows (axis 0, with their biases) or columns (axis 1) of `linear`."""
    vectors = vectors.to(linear.weight.device)
    weight = linear.weight.detach().index_select(axis, vectors)
    bias: Tensor | None = linear.bias
    if bias is not None:
        bias = bias.detach().index_select(0, vectors) if axis == 0 else bias.detach().clone()
    smaller = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    smaller.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    if bias is not None:
        assert linear.bias is not None
        smaller.bias = nn.Parameter(bias, requires_grad=linear.bias.requires_grad)
    return smaller.train(linear.training)


def _sliced_norm(norm: nn.Module, vectors: Tensor) -> nn.Module:
    """A norm over fewer outputs that gives what `norm` gives where the others are zero.

    Over n outputs x, of which all but m are zero, a root-mean-square norm gives w·x / sqrt(Σx²/n + ε). The sum has no
    other terms than those of the m, and with Σx²/n = (m/n)·Σx²/m this is

        w·x / sqrt((m/n)·(Σx²/m + ε·n/m)) = sqrt(n/m)·w · x / sqrt(Σx²/m + ε·n/m):

    a norm over the m outputs with weight sqrt(n/m)·w and epsilon ε·n/m, exactly.
    """
    old: Any = norm
    share = old.weight.numel() / len(vectors)
    smaller = copy.copy(old)
    smaller._parameters = dict(old._parameters)
    weight = old.weight.detach().index_select(0, vectors.to(old.weight.device)) * math.sqrt(share)
    smaller.weight = nn.Parameter(weight, requires_grad=old.weight.requires_grad)
    smaller.variance_epsilon = old.variance_epsilon * share
    return smaller


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
