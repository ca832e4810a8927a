"""Runs offloaded models on a device that is not the host, in tensors without values: a mixture of the two is an error.

A program of its own, as the device is registered for the whole process. Whatever is asked of a value is true.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from reproducer.methods.moreau import _Descent
from reproducer.methods.registry import Request
from reproducer.models.architecture import architecture_of
from reproducer.models.loss import next_token_losses
from reproducer.models.offload import at_hand, offload, waits
from reproducer.models.walk import LayerWalk, frozen
from reproducer.pruning.allocation import Allocation
from reproducer.pruning.collect import Limits, collect
from reproducer.pruning.plan import Plan, units_of
from reproducer.pruning.statistics import Element, InputSquare, Power, Second
from tests.families import family_model

DEVICE, FAMILY = "other", "llama grouped tied"
WANTED = (Power(), InputSquare(), Element(1.0), Second())


class Values(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return True
        return func(*args, **(kwargs or {}))


class Generator(torch.Generator):
    """The host's, as the device has none."""

    def __new__(cls, device: Any = None) -> Any:
        return super().__new__(cls)


def places(model: Any) -> set[str]:
    return {weight.device.type for weight in model.parameters()}


def moved(model: Any, device: torch.device) -> None:
    """What `model.to` does; torch's own cannot move tensors without values."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(weight.detach().to(device), requires_grad=weight.requires_grad)
        module._buffers |= {name: values.to(device) for name, values in module._buffers.items() if values is not None}


def tensor(data: Any, *, device: Any = None, make: Any = torch.tensor, **options: Any) -> Any:
    """What `torch.tensor` does, which the device does not know."""
    made = make(data, **options)
    return made if device is None else torch.zeros(made.shape, dtype=made.dtype, device=device)


def main() -> None:
    torch.tensor = tensor
    torch.Tensor.new_tensor = lambda like, value: like.new_zeros(())
    torch.Generator = Generator
    _setup_privateuseone_for_python_backend(DEVICE)
    with FakeTensorMode(), Values():
        run(family_model(FAMILY, layers=2, dtype=torch.float32))


def run(model: Any) -> None:
    architecture, ids = architecture_of(model), torch.zeros(2, 8, dtype=torch.long)
    assert places(model) == {"cpu"}
    model.to = partial(moved, model)
    model.set_attn_implementation("eager")  # the other one asks the device
    offload(model, DEVICE, 1)
    layers = architecture.decoder_layers(model)
    assert [places(layer) for layer in layers] == [{"cpu"}, {DEVICE}]
    assert [waits(layer) for layer in layers] == [True, False]
    apart = places(architecture.head_of(model)), places(architecture.decoder_of(model).get_input_embeddings())
    assert apart == ({DEVICE}, {DEVICE})
    with frozen(model), torch.no_grad():
        cache = model(ids.to(DEVICE), use_cache=True).past_key_values
        assert model(ids[:, :1].to(DEVICE), past_key_values=cache, use_cache=True).logits.device.type == DEVICE
    collect(model, ids, range(2), WANTED)
    collect(model, ids, range(2), (InputSquare(), Second()), Limits(activations=0), per_sample=True)
    collect(model, ids, range(2), (InputSquare(),))
    request = Request(model, architecture, [0, 1], Allocation(ratio=0.2), ids, 0, {})
    with frozen(model):
        _Descent(request, 0.0, 1.0, 0.1, 0.1).run(2, 1, Element(0))
    units = units_of(model, architecture)
    plan = Plan(units, {0: [0]}, {0: [0, 2], 1: [1]})
    walk = LayerWalk(model, 8)
    with frozen(model), torch.no_grad():
        hidden = walk.embed(ids)
        for index, layer in enumerate(walk.layers):
            walk.run(index, hidden, plan.layer(index, layer, architecture))  # sliced where it waits
            with at_hand(layer):
                smaller = plan.layer(index, layer, architecture)
                with at_hand(smaller):
                    hidden = walk.run(index, walk.run(index, hidden, smaller), smaller)
        assert walk.losses(hidden, ids).device.type == DEVICE
    plan.apply_(model)
    decoder = architecture.decoder_of(model)
    with frozen(model), torch.no_grad():
        hidden = decoder(input_ids=ids.to(DEVICE), use_cache=False).last_hidden_state
        assert next_token_losses(model, hidden, ids).device.type == DEVICE
    offload(model, DEVICE, 2)
    assert places(model) == {DEVICE}


if __name__ == "__main__":
    main()
