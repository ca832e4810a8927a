"""The memory that tensors take while a function runs, counted from the tensors themselves."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from itertools import chain
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


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


def _tensors(*groups: Iterable[Any]) -> list[Tensor]:
    """The tensors among an operator's arguments or results: each is a tensor, a list of them or something else."""
    found = []
    for value in chain(*groups):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found
