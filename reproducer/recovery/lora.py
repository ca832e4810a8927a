"""LoRA fine-tuning of a pruned model on instructions, as LLM-Pruner recovers its models.

What is LLM-Pruner's (its `post_training.py` and the defaults of the transformers trainer that it uses):
Alpaca's prompt format, the loss on the response only (`train_on_inputs` is off there by default), the end token
behind a response that fits, AdamW with betas 0.9 and 0.999 and no weight decay, gradients clipped to norm 1, a
linear schedule whose first step under a warm-up has learning rate 0. What differs: a batch's loss is the mean over
all its response tokens (there: the mean of the micro-batches' means, which depends on how the batch is cut); the
adapter is in float32 and the base in its own dtype (there: float16 with loss scaling); no rows are held out, and
the last adapter is taken (there: the best on 2,000 rows held out).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from reproducer.errors import UserError
from reproducer.models.architecture import Architecture, architecture_of
from reproducer.models.memory import give_back
from reproducer.recovery import checkpoints
from reproducer.recovery.adapter import add_adapter, load_adapter, merge_adapter, save_adapter
from reproducer.recovery.examples import Example, tokenised
from reproducer.recovery.training import Settings, TrainingRun, derived_seed

__all__ = ["LoraResult", "Settings", "load_adapter", "merge_adapter", "train_lora"]


@dataclass(frozen=True)
class LoraResult:
    """A finished run.

    Attributes:
        losses: one {step, loss, learning_rate, examples} a step: steps count from 1, the loss is the mean over the
            batch's response tokens in nats before the step, examples counts those seen so far.
        steps: optimiser steps.
        examples: examples seen, repetitions counted.
        rows: rows trained on.
        dropped: rows left out because the cut at `cutoff` tokens left nothing of their response.
        seconds: wall-clock time, that before an interruption included.
    """

    losses: list[dict[str, Any]]
    steps: int
    examples: int
    rows: int
    dropped: int
    seconds: float


def train_lora(
    model: nn.Module,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    settings: Settings,
    directory: Path,
    seed: int,
    progress: Callable[[float, float, str], None] | None = None,
    say: Callable[[str], None] | None = None,
    checkpoint_seconds: float = 60.0,
) -> LoraResult:
    """Trains a LoRA adapter and writes it to `directory`; the model is left as it was, its weights stay frozen.

    Writes `adapter/` (peft's two files) and `losses.json`, both only when training is finished, and keeps
    `checkpoints/` until then. A run that was killed goes on from its newest checkpoint when it is started again
    with the same arguments; on a CPU, with the same number of threads, it ends with the same bits as an unbroken
    run. The caller's random numbers go on undisturbed.

    Args:
        model: a causal language model of a declared architecture; its layers may have any widths, its weights any
            floating dtype, and it may be on any device.
        tokenizer: its tokenizer; it is not changed and needs no padding token.
        rows: instruction, input and output each.
        settings: see `Settings`. `steps` ends training early, with the schedule ending there; None: the epochs
            decide.
        seed: of the adapter's first weights, the order of the rows and the dropout.
        progress: told steps done (with fractions), all steps, and the last loss.
        say: told what a person should read; the log by default.
        checkpoint_seconds: least time between two checkpoints.

    Raises:
        UserError: there is nothing to train on, a setting does not suit the model or the data, or the loss or a
            gradient is not finite (then no adapter is written).
    """
    started = time.perf_counter()
    say = say or logging.getLogger(__name__).warning
    for stale in ("adapter", "adapter.tmp"):
        shutil.rmtree(directory / stale, ignore_errors=True)
    (directory / "losses.json").unlink(missing_ok=True)

    architecture = architecture_of(model)
    _check_context(model, settings)
    examples, dropped = tokenised(rows, tokenizer, settings.cutoff)
    steps = _step_count(len(examples), dropped, settings)
    adapted = add_adapter(model, settings, derived_seed(seed, "adapter")).train()
    run = TrainingRun(adapted, architecture, examples, settings, seed, steps, _padding(tokenizer))

    folder = directory / "checkpoints"
    identity = _identity(model, architecture, examples, settings, seed)
    before = 0.0
    if checkpoint := checkpoints.newest(folder, identity, say):
        run.restore(checkpoint)
        before = checkpoint.seconds
    saved = time.perf_counter()
    while run.done < steps:
        run.step(progress or (lambda done, total, text: None))
        give_back()  # batches differ in their lengths, so does what they leave on the heap
        now = time.perf_counter()
        if now - saved >= checkpoint_seconds:
            checkpoints.write(folder, run.checkpoint(before + now - started), identity)
            saved = time.perf_counter()

    save_adapter(adapted, directory / "adapter")
    (directory / "losses.json").write_text(json.dumps(run.losses, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    seconds = before + time.perf_counter() - started
    return LoraResult(run.losses, steps, run.losses[-1]["examples"], len(examples), dropped, seconds)


def _check_context(model: Any, settings: Settings) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and settings.cutoff > limit:
        raise UserError(
            f"recovery.cutoff: {settings.cutoff} tokens are more than the {limit} that the model can take",
            f"set recovery.cutoff to at most {limit}",
        )


def _step_count(examples: int, dropped: int, settings: Settings) -> int:
    if not examples and not dropped:
        raise UserError("fine-tuning has no instruction rows to train on")
    if not examples:
        raise UserError(
            f"recovery.cutoff: {settings.cutoff} tokens leave nothing of the response in any of {dropped} rows",
            "set a larger recovery.cutoff",
        )
    steps = math.ceil(settings.epochs * examples / settings.batch)
    if settings.steps is not None:
        steps = min(steps, settings.steps)
    if settings.warmup_steps >= steps:
        raise UserError(
            f"recovery.warmup_steps: a warm-up of {settings.warmup_steps} steps does not end within the {steps} "
            f"steps of training ({examples} rows, {settings.epochs} epochs, batches of {settings.batch})",
            f"set recovery.warmup_steps below {steps}",
        )
    return steps


def _identity(
    model: nn.Module, architecture: Architecture, examples: list[Example], settings: Settings, seed: int
) -> str:
    """A digest of what determines a run, with some elements of each weight in the place of the whole model."""
    names = [name for name in dir(Settings) if not name.startswith("_")]
    values = {name: getattr(settings, name) for name in names} | {"targets": sorted(settings.targets)}
    digest = hashlib.sha256(json.dumps([values, seed], sort_keys=True).encode())
    digest.update(json.dumps([(example.ids, example.prompt) for example in examples]).encode())
    for name, weight in architecture.decoder_layers(model).named_parameters():
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // 64)].double().tolist()
        digest.update(json.dumps([name, list(weight.shape), some]).encode())
    return digest.hexdigest()


def _padding(tokenizer: Any) -> int:
    """Any token will do behind the end of a sequence: nothing sees it and nothing is learned from it."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    return 0
