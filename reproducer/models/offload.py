"""Decoder layers whose weights wait in host memory, and come to the device for the time of a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reproducer.models.architecture import family_of

_DEVICE = "offloaded_from"  # attribute of a layer: the device, None where its weights stay there


def offload(model: nn.Module, device: str | torch.device, resident: int) -> None:
    """Bring `model` to `device` in place, but for the weights of the decoder layers in front of the last `resident`.

    Those wait in host memory, pinned if `device` is a GPU. A pass through a layer works on copies on the device, which
    go when it ends; `at_hand` keeps them for several passes. So one such layer is on the device at a time, and a second
    one where it is sliced there. A graph keeps the copies that it has seen, until its backward pass is through with
    them: whoever wants room builds the graph of a layer that `waits` when the backward pass gets there.

    The last layers stay, as a search and statistics run those below the first pruned one only once. Called again, it
    moves what has to move. Nothing of this changes a number.

    Args:
        model: a causal language model of a declared family; its weights may lie on the host or on the device.
        resident: decoder layers that stay on the device.
    """
    device = torch.device(device)
    layers: Any = family_of(model.config).decoder_layers(model)
    waiting = layers[: max(0, len(layers) - resident)]
    for layer in layers:
        setattr(layer, _DEVICE, None)
    for layer in waiting:
        setattr(layer, _DEVICE, device)
        if _bring not in layer._forward_pre_hooks.values():
            layer.register_forward_pre_hook(_bring)
            layer.register_forward_hook(_let_go, always_call=True)
        for parameter in layer.parameters():
            home = parameter.data.cpu()
            parameter.data = home.pin_memory() if device.type == "cuda" else home
    apart = [(module._parameters, dict(module._parameters)) for layer in waiting for module in layer.modules()]
    try:
        for weights, _ in apart:
            weights.clear()
        model.to(device)  # all that is left, and the buffers of every layer
    finally:
        for weights, own in apart:
            weights.update(own)


def waits(layer: nn.Module) -> bool:
    """Whether the weights of a decoder layer are in host memory between its passes."""
    return getattr(layer, _DEVICE, None) is not None


@contextmanager
def at_hand(layer: nn.Module) -> Iterator[None]:
    """The weights of a decoder layer on the device while inside; nothing happens to one that does not wait."""
    try:
        _bring(layer)
        yield
    finally:
        _let_go(layer)


@dataclass
class _Visit:
    """What a layer has on the device: how many asked for it, and the weights at home by whose parameters they are."""

    asked: int = 0
    home: list[tuple[dict[str, Any], str, Tensor]] = field(default_factory=list)


_visits: dict[int, _Visit] = {}  # of layers at hand, by id: a sliced layer is another one than the layer it is of


def _bring(layer: nn.Module, *_: Any) -> None:
    if not waits(layer):
        return
    visit = _visits.setdefault(id(layer), _Visit())
    visit.asked += 1
    if visit.asked > 1:
        return
    for module in layer.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                visit.home.append((module._parameters, name, weight))
                module._parameters[name] = _copied(weight, getattr(layer, _DEVICE))


def _let_go(layer: nn.Module, *_: Any) -> None:
    if (visit := _visits.get(id(layer))) is None:
        return
    visit.asked -= 1
    if visit.asked == 0:
        del _visits[id(layer)]
        for weights, name, weight in reversed(visit.home):
            weights[name] = weight


def _copied(weight: Tensor, device: torch.device) -> Any:
    """A copy on the device; a graph leads through it to the weight."""
    return weight.to(device, non_blocking=True, copy=True)
