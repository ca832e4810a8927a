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
        made = _made(func, args, kwargs)
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


_ITSELF = object()
_results: dict[Any, Any] = {}  # an operator and what its arguments look like -> what its results look like


def _made(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operator makes on the meta device, where torch derives its shape, slowly, in Python.

    Here that is done once for all arguments that look the same; views are always made by the operator.
    """
    changed = [one.alias_info is not None for one in func._schema.returns]
    itself = changed == [True] and func._schema.is_mutable
    if any(changed) and not itself:
        return func(*args, **kwargs)
    key = func, _look(args), _look(tuple(kwargs.items()))
    try:
        found = _results.get(key)
    except TypeError:  # an argument that cannot be compared
        return func(*args, **kwargs)
    if found is _ITSELF:
        return args[0]
    if found is not None:
        made = [
            aten.empty_strided.default(size, step, dtype=dtype, device=device) for size, step, dtype, device in found
        ]
        return made[0] if len(func._schema.returns) == 1 else tuple(made)
    made = func(*args, **kwargs)
    results = (made,) if isinstance(made, Tensor) else made
    if itself:
        if made is args[0] and _look(made) == key[1][0]:  # it keeps its shape
            _results[key] = _ITSELF
    elif isinstance(results, tuple) and all(isinstance(one, Tensor) for one in results):
        given = {tensor.untyped_storage()._cdata for tensor in _tensors(args, kwargs.values())}
        if not any(one.untyped_storage()._cdata in given for one in results):  # `_unsafe_view` is a view, too
            _results[key] = [_look(one) for one in results]
    return made


def _look(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, list | tuple):
        return tuple(_look(one) for one in value)
    return type(value), value  # 2 is not 2.0


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
