"""Times and memory of forward passes, of random tokens; on a CPU or a GPU."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reproducer.evaluation.checks import check_context
from reproducer.models.walk import frozen

Progress = Callable[[int, int], None] | None


def measure_passes(
    model: Any, length: int = 64, batch: int = 1, repeats: int = 20, warmup: int = 3, progress: Progress = None
) -> tuple[list[float], int]:
    """Time passes over random tokens [batch, length] to logits at every position, without a cache.

    A first pass, which is not timed, measures the memory: on a GPU what torch reports as the most allocated at once,
    on a CPU the same counted from the tensors themselves (workspaces inside kernels are not seen there).

    Args:
        model: a transformers causal language model, pruned or not; left in the mode it was in.
        repeats, warmup: passes that are timed, at least 1, and passes before them that are not.
        progress: called with (passes done, passes in all).

    Returns:
        The seconds of every timed pass, in order; and the most bytes that the weights and everything made in a pass
        took at once.

    Raises:
        UserError: sequences longer than the model's context.
    """
    ids = _random_tokens(model, batch, length, "efficiency.length")
    with frozen(model), torch.inference_mode():
        peak = _peak_memory(model, ids)
        (seconds,) = _times([lambda: model(input_ids=ids, use_cache=False)], ids.device, repeats, warmup, progress)
    return seconds, peak


def measure_speed(
    model: Any, prefill: int, decode: int, batch: int = 1, repeats: int = 10, warmup: int = 2, progress: Progress = None
) -> tuple[list[float], list[float]]:
    """Time a pass over random tokens [batch, prefill], then `decode` passes of one token each with its cache.

    As in generation, logits are made at the last position alone. Arguments as in `measure_passes`.

    Returns:
        The seconds of every timed repeat: of reading the prompt, and of all tokens written after it.
    """
    ids = _random_tokens(model, batch, prefill + decode, "the prompt of evaluate.speed with what is written after it")
    cache: Any = None

    def read() -> None:
        nonlocal cache
        cache = model(input_ids=ids[:, :prefill], use_cache=True, logits_to_keep=1).past_key_values

    def write() -> None:
        nonlocal cache
        for token in ids[:, prefill:].split(1, dim=1):
            cache = model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values

    with frozen(model), torch.inference_mode():
        reading, writing = _times([read, write], ids.device, repeats, warmup, progress)
    return reading, writing


def _random_tokens(model: Any, batch: int, length: int, name: str) -> Tensor:
    check_context(model, length, name)
    generator = torch.Generator().manual_seed(0)  # which tokens they are plays no part
    ids = torch.randint(model.config.vocab_size, (batch, length), generator=generator)
    return ids.to(next(model.parameters()).device)


def _times(
    steps: Sequence[Callable[[], Any]], device: torch.device, repeats: int, warmup: int, progress: Progress
) -> list[list[float]]:
    """The seconds of each step in every repeat but the `warmup` first; on a GPU each step is waited for."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    seconds: list[list[float]] = [[] for _ in steps]
    for number in range(warmup + repeats):
        before = now()
        for step, times in zip(steps, seconds, strict=True):
            step()
            after = now()
            times.append(after - before)
            before = after
        if progress is not None:
            progress(number + 1, warmup + repeats)
    return [times[warmup:] for times in seconds]


def _peak_memory(model: Any, ids: Tensor) -> int:
    gc.collect()  # models of earlier stages
    if ids.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(ids.device)
        model(input_ids=ids, use_cache=False)
        return torch.cuda.max_memory_allocated(ids.device)
    storages = {tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())}
    with Allocations() as allocations:
        model(input_ids=ids, use_cache=False)
    return allocations.peak + sum(storage.nbytes() for storage in storages)


class Allocations(TorchDispatchMode):
    """Counts the bytes of the storages that operations make inside, until they are freed: `now`, and at most `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.now = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        self._note(_tensors(args, kwargs.values()), _tensors([results]))
        return results

    def _note(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        storages_in = [tensor.untyped_storage() for tensor in inputs]
        for tensor in outputs:
            storage = tensor.untyped_storage()
            if storage not in self._known and all(storage is not other for other in storages_in):  # no view of an input
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.now)

    def _freed(self, size: int) -> None:
        self.now -= size


def _tensors(*groups: Iterable[Any]) -> list[Tensor]:
    """The tensors among an operator's arguments or results: each is a tensor, a list of them or something else."""
    tensors = []
    for value in chain(*groups):
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            tensors += _tensors(value)
    return tensors
