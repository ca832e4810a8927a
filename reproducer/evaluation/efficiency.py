"""Latency and memory of a forward pass, measured; on a CPU or a GPU."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reproducer.errors import UserError
from reproducer.evaluation.operations import Allocations
from reproducer.models.walk import frozen


@dataclass(frozen=True)
class Efficiency:
    """What `measure` found.

    Attributes:
        seconds: of every measured pass, in the order in which they ran.
        peak_memory_bytes: the most that the weights and everything made in a pass took at once.
        tokens: tokens a pass.
    """

    seconds: list[float]
    peak_memory_bytes: int
    tokens: int

    @property
    def latency(self) -> float:
        """Median seconds of a pass: a pass that something else disturbed does not move it."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and third quartile of the seconds (both the same for a single pass)."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.latency


def measure(
    model: Any,
    length: int = 64,
    batch: int = 1,
    repeats: int = 20,
    warmup: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> Efficiency:
    """Time forward passes of random tokens [batch, length] to logits at every position, without a cache.

    The passes run one after the other on the model's device; on a GPU each is waited for before the clock is read.
    A first pass, which is not timed, measures the memory: on a GPU what torch reports as the most allocated at once,
    on a CPU the same counted from the tensors themselves (workspaces inside kernels are not seen there).

    Args:
        model: a transformers causal language model, pruned or not; left in the mode it was in.
        repeats: passes that are timed, at least 1.
        warmup: passes before them that are not.
        progress: called with (passes done, passes in all).

    Raises:
        UserError: sequences longer than the model's context.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise UserError(
            f"efficiency.length is {length} tokens, longer than the model's context of {limit}",
            f"use at most {limit}",
        )
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)  # which tokens they are plays no part
    ids = torch.randint(model.config.vocab_size, (batch, length), generator=generator).to(device)
    seconds: list[float] = []
    with frozen(model), torch.inference_mode():
        peak = _peak_memory(model, ids)
        for number in range(warmup + repeats):
            wait(device)
            start = time.perf_counter()
            model(input_ids=ids, use_cache=False)
            wait(device)
            seconds.append(time.perf_counter() - start)
            if progress is not None:
                progress(number + 1, warmup + repeats)
    return Efficiency(seconds[warmup:], peak, ids.numel())


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(model: Any, ids: Tensor) -> int:
    gc.collect()  # models of earlier stages
    if ids.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(ids.device)
        model(input_ids=ids, use_cache=False)
        return torch.cuda.max_memory_allocated(ids.device)
    storages = {tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())}
    with Allocations() as made:
        model(input_ids=ids, use_cache=False)
    return made.peak + sum(storage.nbytes() for storage in storages)
