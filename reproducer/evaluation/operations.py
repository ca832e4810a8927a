"""What a function does, operation by operation: memory that tensors take, products, traffic."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward


class Allocations(TorchDispatchMode):
    """Counts the bytes of the storages that operations make inside, until they are freed: `now`, and at most `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.now = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        self._note(_tensors(args, kwargs.values()), _tensors([made]))
        return made

    def _note(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        given = [tensor.untyped_storage() for tensor in inputs]
        for tensor in outputs:
            storage = tensor.untyped_storage()
            if storage not in self._known and all(storage is not other for other in given):  # no view of an input
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.now)

    def _freed(self, size: int) -> None:
        self.now -= size


@dataclass(frozen=True)
class Operations:
    """`flops` of products, a multiply-add being two; `bytes` read and written; `calls`; the most `memory` at once."""

    flops: int
    bytes: int
    calls: int
    memory: int


def count(run: Callable[[], Any]) -> Operations:
    """What `run` does. All of its tensors are on the meta device, also those that it makes or moves elsewhere.

    Whatever it asks of a tensor's values is true: that they are finite.
    """
    with torch.device("meta"), _FusedAttention(), _Counter() as counted:
        run()
    return Operations(counted.flops, counted.bytes, counted.calls, counted.peak)


class _Counter(Allocations):
    flops = bytes = calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default:
            return True
        kwargs, packet = dict(kwargs or {}), func._overloadpacket
        if "device" in kwargs:
            kwargs["device"] = torch.device("meta")
        made = func(*args, **kwargs)
        inputs, outputs = _tensors(args, kwargs.values()), _tensors([made])
        self._note(inputs, outputs)
        given = {tensor.untyped_storage()._cdata for tensor in inputs}
        changed = func._schema.is_mutable
        written = sum(one.nbytes for one in outputs if changed or one.untyped_storage()._cdata not in given)
        if written and packet is not aten.empty:  # neither a view nor memory that nobody has touched
            self.bytes += written + sum(tensor.nbytes for tensor in inputs)
        self.calls += 1
        if packet is ATTENTION:
            self.flops += sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
        elif packet is ATTENTION_BACKWARD:
            self.flops += sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4]))
        elif packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=made)
        return made


class _FusedAttention(TorchFunctionMode):
    """Attention as devices do it: without the scores of all pairs, which torch keeps on the meta device alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, *others = args[:3]
        return ATTENTION(query, *(one.repeat_interleave(query.shape[1] // one.shape[1], 1) for one in others))[0]


def _tensors(*groups: Iterable[Any]) -> list[Tensor]:
    """The tensors among an operator's arguments or results: each is a tensor, a list of them or something else."""
    found = []
    for value in chain(*groups):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found
