"""How long a model takes to read a prompt and to write after it, apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from reproducer.evaluation.efficiency import wait
from reproducer.models.walk import frozen


@dataclass(frozen=True)
class Speed:
    """Seconds of every measured repeat: of reading the prompt, and of all tokens written after it."""

    prefill: list[float]
    decode: list[float]


def measure(
    model: Any,
    prefill: int,
    decode: int,
    batch: int = 1,
    repeats: int = 10,
    warmup: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Speed:
    """Time a pass over random tokens [batch, prefill], then `decode` passes of one token each with its cache.

    As in generation, logits are made at the last position alone. On a GPU each of the two is waited for.

    Args:
        model: a transformers causal language model, pruned or not; left in the mode it was in.
        repeats, warmup: prompts that are timed, and prompts before them that are not.
        progress: called with (prompts done, prompts in all).
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)  # which tokens they are plays no part
    ids = torch.randint(model.config.vocab_size, (batch, prefill + decode), generator=generator).to(device)
    read: list[float] = []
    written: list[float] = []
    with frozen(model), torch.inference_mode():
        for number in range(warmup + repeats):
            wait(device)
            start = time.perf_counter()
            cache = model(input_ids=ids[:, :prefill], use_cache=True, logits_to_keep=1).past_key_values
            wait(device)
            between = time.perf_counter()
            for place in range(prefill, prefill + decode):
                step = ids[:, place : place + 1]
                cache = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
            wait(device)
            read.append(between - start)
            written.append(time.perf_counter() - between)
            if progress is not None:
                progress(number + 1, warmup + repeats)
    return Speed(read[warmup:], written[warmup:])
