"""Training weights step by step, so that a run can stop behind any step and go on as if it had not."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.models.architecture import family_of
from reproducer.models.loss import next_token_losses
from reproducer.models.memory import give_back
from reproducer.recovery.instructions import InstructionTuning
from reproducer.recovery.registry import Job
from reproducer.recovery.training import checkpoints
from reproducer.recovery.training.adapter import seeded
from reproducer.recovery.training.checkpoints import Checkpoint
from reproducer.recovery.training.examples import IGNORED, Example, padded

CHECKPOINT_SECONDS = 60.0  # least time between two
GRADIENT_NORM = 1.0
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state beside the number of steps


@dataclass(frozen=True)
class Phase:
    """A stretch of a run: examples of one source, under a schedule of their own.

    Attributes:
        examples: what to train on, in the order of the rows.
        steps: how many the phase has.
        warmup: steps before the rate is at its peak, fewer than `steps`.
        passes: how many examples are passed at most, each epoch in an order of its own.
        source: joins the seed of that order.
    """

    examples: list[Example]
    steps: int
    warmup: int
    passes: int
    source: str = ""

    def learning_rate(self, done: int, peak: float) -> float:
        """The rate behind `done` steps of the phase: up in a line over the warm-up, then down in a line to 0."""
        share = done / self.warmup if done < self.warmup else (self.steps - done) / (self.steps - self.warmup)
        return peak * share

    def batch(self, step: int, size: int, seed: int) -> list[Example]:
        """The examples of a step of the phase, counted from 0."""
        count = len(self.examples)
        places = range(step * size, min((step + 1) * size, self.passes))
        return [self.examples[_order(count, seed, self.source, place // count)[place % count]] for place in places]


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A seed of its own for each purpose, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr((seed, *purpose)).encode()).digest()[:8], "big") >> 1


class TrainingRun:
    """A run between two steps: all of its state is in the weights, the optimiser and `losses`.

    Args:
        model: a causal language model of a declared family; it is put into training mode and all of it is frozen but
            `weights`.
        weights: what is trained, by name.
        phases: what to train on, one after the other; the optimiser's state is carried through all of them.
        settings: how.
        seed: of the examples' order and the dropout.
        padding: any token of the vocabulary.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, nn.Parameter],
        phases: Sequence[Phase],
        settings: InstructionTuning,
        seed: int,
        padding: int,
    ) -> None:
        self.model, self.weights = model.train().requires_grad_(False), dict(weights)
        for weight in self.weights.values():
            weight.requires_grad_()
        family = family_of(model.config)
        self.decoder, self.device = family.decoder_of(model), family.head_of(model).weight.device
        self.layers = family.decoder_layers(model)
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=settings.learning_rate, weight_decay=0.0)
        self.phases, self.settings, self.seed, self.padding = list(phases), settings, seed, padding
        self.steps = sum(phase.steps for phase in phases)
        self.losses: list[dict[str, Any]] = []

    def at(self, step: int) -> tuple[Phase, int]:
        """The phase of a step of the run, and its number in it, both counted from 0."""
        for phase in self.phases[:-1]:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        return self.phases[-1], step

    @property
    def done(self) -> int:
        return len(self.losses)

    def step(self, progress: Callable[[float, float, str], None]) -> None:
        """One optimiser step on the next batch. Its random numbers follow from the seed and its number alone.

        Raises:
            UserError: the loss or the gradient is not finite; the adapter is as it was before the step.
        """
        settings = self.settings
        phase, within = self.at(self.done)
        rate = phase.learning_rate(within, settings.learning_rate)
        # Micro-batches of like lengths: less padding, and the batch's gradient is the same sum.
        batch = sorted(phase.batch(within, settings.batch, self.seed), key=lambda one: len(one.ids))
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
        loss, seen = total / tokens, len(batch) + (self.losses[-1]["examples"] if self.losses else 0)
        self.losses.append({"step": self.done + 1, "loss": loss, "learning_rate": rate, "examples": seen})
        progress(self.done, self.steps, f"loss {loss:.3f}")

    def _accumulate(self, examples: list[Example]) -> float:
        """Adds the gradient of the *summed* token losses, which float16 can hold where that of a mean underflows."""
        ids, labels = (tensor.to(self.device) for tensor in padded(examples, self.padding))
        hidden = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        loss = response_losses(self.model, hidden, labels).sum()
        loss.backward()
        return loss.item()

    def checkpoint(self) -> Checkpoint:
        """The run's state behind its last step."""
        tensors = {}
        for name, weight in self.weights.items():
            tensors[f"weight/{name}"] = weight.detach().cpu()
            for moment in MOMENTS:
                tensors[f"{moment}/{name}"] = self.optimizer.state[weight][moment].cpu()
        return Checkpoint(self.done, tensors, self.losses)

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

    def identity(self) -> str:
        """A digest of what determines the run, with some elements of each weight in the place of the whole model."""
        digest = hashlib.sha256(self.settings.model_dump_json(exclude={"dataset", "examples", "text"}).encode())
        digest.update(json.dumps([self.seed, sorted(self.weights), weights_digest(self.layers)]).encode())
        for phase in self.phases:
            digest.update(json.dumps([(example.ids, example.prompt) for example in phase.examples]).encode())
        return digest.hexdigest()


def train(run: TrainingRun, job: Job, save: Callable[[], None]) -> None:
    """Takes the run to its end from its newest checkpoint, if it has one, and lets the checkpoints go once it is saved.

    Raises:
        UserError: as `TrainingRun.step`.
    """
    folder, identity = job.directory / "checkpoints", run.identity()
    if checkpoint := checkpoints.newest(folder, identity, job.say):
        run.restore(checkpoint)
    saved = time.perf_counter()
    while run.done < run.steps:
        run.step(job.progress)
        give_back()  # batches differ in their lengths, so does what they leave on the heap
        if time.perf_counter() - saved >= CHECKPOINT_SECONDS:
            checkpoints.write(folder, run.checkpoint(), identity)
            saved = time.perf_counter()
    save()
    shutil.rmtree(folder, ignore_errors=True)


def weights_digest(layers: nn.Module) -> str:
    """A digest of some elements of each weight, with its name and shape."""
    digest = hashlib.sha256()
    for name, weight in layers.named_parameters():
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // 64)].double().tolist()
        digest.update(json.dumps([name, list(weight.shape), some]).encode())
    return digest.hexdigest()


@lru_cache(maxsize=4)
def _order(examples: int, seed: int, source: str, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", *filter(None, [source]), epoch))
    return torch.randperm(examples, generator=generator).tolist()


def require_finite(value: float, what: str, where: str) -> None:
    """Raises UserError if `value` is NaN or infinite."""
    if not math.isfinite(value):
        raise UserError(
            f"fine-tuning failed: the {what} is not finite {where}",
            "try a smaller recovery.learning_rate, or the model in bfloat16 or float32 if it is in float16",
        )


def response_losses(model: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """Losses of the learned tokens alone: the head, dear with a large vocabulary, sees no other position.

    Args:
        model: as `next_token_losses` takes it; its head is frozen.
        hidden: [batch, length, width], the last hidden state of its decoder.
        labels: LongTensor [batch, length], -100 where nothing is learned; the shift happens here.

    Returns:
        float32 (float64 for a float64 model) [learned tokens], in nats.
    """
    learned = labels[:, 1:] != IGNORED
    rows = hidden[:, :-1][learned]
    targets = labels[:, 1:][learned]
    # next_token_losses shifts labels by one: each position is handed to it as a sequence of its own with its target.
    pairs = rows.unsqueeze(1).expand(-1, 2, -1)
    return next_token_losses(model, pairs, targets.unsqueeze(1).expand(-1, 2)).squeeze(1)
