"""Training an adapter step by step, so that a run can stop behind any step and go on as if it had not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.models.architecture import Architecture
from reproducer.models.loss import token_losses
from reproducer.recovery.adapter import AdapterSettings, seeded
from reproducer.recovery.checkpoints import Checkpoint
from reproducer.recovery.examples import IGNORED, Example, padded

GRADIENT_NORM = 1.0
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state beside the number of steps


class Settings(AdapterSettings, Protocol):
    """What a training run needs to be told; the `recovery` section of a spec has all of it."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def micro_batch(self) -> int: ...
    @property
    def cutoff(self) -> int: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def steps(self) -> int | None: ...


def learning_rate(done: int, steps: int, settings: Settings) -> float:
    """The rate of the step behind `done` steps: up in a line over the warm-up, then down in a line to 0 at the end."""
    warmup = settings.warmup_steps
    share = done / warmup if done < warmup else (steps - done) / (steps - warmup)
    return settings.learning_rate * share


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A seed of its own for each purpose, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr((seed, *purpose)).encode()).digest()[:8], "big") >> 1


class TrainingRun:
    """A run between two steps: all of its state is in the adapter, the optimiser and `losses`.

    Args:
        adapted: a peft model in training mode with a fresh adapter.
        architecture: the base model's.
        examples: what to train on, in the order of the rows.
        settings: how.
        seed: of the rows' order and the dropout.
        steps: where the schedule ends.
        padding: any token of the vocabulary.
    """

    def __init__(
        self,
        adapted: Any,
        architecture: Architecture,
        examples: list[Example],
        settings: Settings,
        seed: int,
        steps: int,
        padding: int,
    ) -> None:
        base = adapted.get_base_model()
        self.decoder: nn.Module = attrgetter(architecture.decoder)(base)
        self.head: nn.Linear = attrgetter(architecture.head)(base)
        self.device = self.head.weight.device
        self.weights: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad
        }
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=settings.learning_rate, weight_decay=0.0)
        self.examples, self.settings, self.seed, self.steps = examples, settings, seed, steps
        self.padding = padding
        self.losses: list[dict[str, Any]] = []
        self.order: list[int] = []
        for epoch in range(settings.epochs):
            generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
            self.order += torch.randperm(len(examples), generator=generator).tolist()

    @property
    def done(self) -> int:
        return len(self.losses)

    def step(self, progress: Callable[[float, float, str], None]) -> None:
        """One optimiser step on the next batch. Its random numbers follow from the seed and its number alone.

        Raises:
            UserError: the loss or the gradient is not finite; the adapter is as it was before the step.
        """
        settings, start = self.settings, self.done * self.settings.batch
        rate = learning_rate(self.done, self.steps, settings)
        numbers = self.order[start : start + settings.batch]
        # Micro-batches of like lengths: less padding, and the batch's gradient is the same sum.
        batch = sorted((self.examples[number] for number in numbers), key=lambda example: len(example.ids))
        tokens = sum(example.targets for example in batch)
        text = f"loss {self.losses[-1]['loss']:.3f}" if self.losses else ""
        total = 0.0
        with seeded(derived_seed(self.seed, "step", self.done), self.device):
            for first in range(0, len(batch), settings.micro_batch):
                progress(self.done + first / len(batch), self.steps, text)
                total += self._accumulate(batch[first : first + settings.micro_batch])
        where = f"at step {self.done + 1} of {self.steps} (learning rate {rate:g})"
        require_finite(total, "loss", where)
        for weight in self.weights.values():
            assert weight.grad is not None  # every target takes part in every forward pass
            weight.grad /= tokens
        norm = nn.utils.clip_grad_norm_(self.weights.values(), GRADIENT_NORM)
        require_finite(norm.item(), "gradient", where)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss, seen = total / tokens, start + len(batch)
        self.losses.append({"step": self.done + 1, "loss": loss, "learning_rate": rate, "examples": seen})
        progress(self.done, self.steps, f"loss {loss:.3f}")

    def _accumulate(self, examples: list[Example]) -> float:
        """Adds the gradient of the *summed* token losses, which float16 can hold where that of a mean underflows."""
        ids, labels = (tensor.to(self.device) for tensor in padded(examples, self.padding))
        hidden = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        loss = response_losses(hidden, self.head, labels).sum()
        loss.backward()
        return loss.item()

    def checkpoint(self, seconds: float) -> Checkpoint:
        """The run's state behind its last step; `seconds` is the time spent so far."""
        tensors = {}
        for name, weight in self.weights.items():
            tensors[f"weight/{name}"] = weight.detach().cpu()
            for moment in MOMENTS:
                tensors[f"{moment}/{name}"] = self.optimizer.state[weight][moment].cpu()
        return Checkpoint(self.done, tensors, self.losses, seconds)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Makes the run what it was when `checkpoint` was taken."""
        for name, weight in self.weights.items():
            with torch.no_grad():
                weight.copy_(checkpoint.tensors[f"weight/{name}"])
            state: dict[str, Tensor] = {"step": torch.tensor(float(checkpoint.step))}
            for moment in MOMENTS:
                state[moment] = torch.empty_like(weight).copy_(checkpoint.tensors[f"{moment}/{name}"])
            self.optimizer.state[weight] = state
        self.losses = list(checkpoint.losses)


def require_finite(value: float, what: str, where: str) -> None:
    """Raises UserError if `value` is NaN or infinite."""
    if not math.isfinite(value):
        raise UserError(
            f"fine-tuning failed: the {what} is not finite {where}",
            "try a smaller recovery.learning_rate, or the model in bfloat16 or float32 if it is in float16",
        )


def response_losses(hidden: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
    """Losses of the learned tokens alone: the head, dear with a large vocabulary, sees no other position.

    Args:
        hidden: [batch, length, width], after the final norm.
        head: the language-model head, frozen.
        labels: LongTensor [batch, length], -100 where nothing is learned; the shift happens here.

    Returns:
        float32 (float64 for a float64 model) [learned tokens], in nats.
    """
    learned = labels[:, 1:] != IGNORED
    rows = hidden[:, :-1][learned]
    targets = labels[:, 1:][learned]
    # token_losses shifts labels by one: each position is handed to it as a sequence of its own with its target.
    pairs = rows.unsqueeze(1).expand(-1, 2, -1)
    return token_losses(pairs, head, targets.unsqueeze(1).expand(-1, 2)).squeeze(1)
