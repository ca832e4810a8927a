"""Fine-tuning: some weights of a model learn from examples, phase after phase, in the one loop of `models.training`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from reproducer.models.architecture import family_of
from reproducer.models.loss import next_token_losses
from reproducer.models.training import Record, derived_seed, require_finite, seeded, train
from reproducer.recovery.registry import Job
from reproducer.recovery.training.examples import IGNORED, Example, Phase, padded

GRADIENT_NORM = 1.0


def fine_tune(
    job: Job,
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    phases: Sequence[Phase],
    save: Callable[[], None],
    *,
    learning_rate: float,
    batch: int,
    micro_batch: int,
    settings: str,
) -> list[Record]:
    """Trains `weights` of `model` by AdamW, whose state is carried through all phases.

    Args:
        job: its directory keeps the checkpoints; its seed decides the examples' order and the dropout.
        model: of a declared family; it is put into training mode, and all of it but `weights`, by name, is frozen.
        phases: what to train on, one after the other.
        save: writes the result.
        learning_rate, batch, micro_batch: at the peak of each phase; examples a step, and at once.
        settings: all that the training is determined by beside weights, examples and seed.

    Returns, raises: as `Recovery.train`.
    """
    model.train().requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_()
    device = family_of(model.config).head_of(model).weight.device
    optimizer = torch.optim.AdamW(weights.values(), lr=learning_rate, weight_decay=0.0)
    steps, text = sum(phase.steps for phase in phases), ""

    def step(number: int) -> Record:
        nonlocal text
        phase, within, seen = _phase_at(phases, number, batch)
        rate = phase.learning_rate(within, learning_rate)
        # Micro-batches of like lengths: less padding, and the batch's gradient is the same sum.
        examples = sorted(phase.batch(within, batch, job.seed), key=lambda example: len(example.ids))
        tokens, total = sum(example.targets for example in examples), 0.0
        with seeded(derived_seed(job.seed, "step", number), device):
            for first in range(0, len(examples), micro_batch):
                job.progress(number + first / len(examples), steps, text)
                total += _accumulate(model, examples[first : first + micro_batch])
        where = f"at step {number + 1} of {steps} (learning rate {rate:g})"
        require_finite(total, "loss", where)
        _update(optimizer, tokens, rate, where)
        text = f"loss {total / tokens:.3f}"
        return {"step": number + 1, "loss": total / tokens, "learning_rate": rate, "examples": seen + len(examples)}

    return train(
        step,
        steps,
        weights,
        optimizer,
        folder=job.directory / "checkpoints",
        identity=_identity(model, weights, phases, job.seed, settings),
        save=save,
        progress=job.progress,
        say=job.say,
    )


def _accumulate(model: nn.Module, examples: list[Example]) -> float:
    """Adds the gradient of the *summed* token losses, which float16 can hold where that of a mean underflows."""
    family = family_of(model.config)
    device = family.head_of(model).weight.device
    ids, labels = (tensor.to(device) for tensor in padded(examples))
    hidden = family.decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    loss = response_losses(model, hidden, labels).sum()
    loss.backward()
    return loss.item()


def _update(optimizer: torch.optim.Optimizer, tokens: int, rate: float, where: str) -> None:
    """One step of the optimiser at this rate, by the mean over the tokens of the gradient, clipped."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for weight in weights:
        weight.grad /= tokens  # every target takes part in every forward pass, so that there is one
    norm = nn.utils.clip_grad_norm_(weights, GRADIENT_NORM)
    require_finite(norm.item(), "gradient", where)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()


def _phase_at(phases: Sequence[Phase], step: int, batch: int) -> tuple[Phase, int, int]:
    """The phase of a step of the run, the step's number in it, and how many examples were seen before that step."""
    seen = 0
    for phase in phases[:-1]:
        if step < phase.steps:
            break
        step -= phase.steps
        seen += min(phase.steps * batch, phase.passes)
    else:
        phase = phases[-1]
    return phase, step, seen + min(step * batch, phase.passes)


def _identity(
    model: nn.Module, weights: Mapping[str, Tensor], phases: Sequence[Phase], seed: int, settings: str
) -> str:
    """A digest of what determines the run, with some elements of each weight in the place of the whole model."""
    layers = family_of(model.config).decoder_layers(model)
    digest = hashlib.sha256(settings.encode())
    digest.update(json.dumps([seed, sorted(weights), weights_digest(layers)]).encode())
    for phase in phases:
        digest.update(json.dumps([(example.ids, example.prompt) for example in phase.examples]).encode())
    return digest.hexdigest()


def weights_digest(layers: nn.Module) -> str:
    """A digest of some elements of each weight, with its name and shape."""
    digest = hashlib.sha256()
    for name, weight in layers.named_parameters():
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // 64)].double().tolist()
        digest.update(json.dumps([name, list(weight.shape), some]).encode())
    return digest.hexdigest()


def response_losses(model: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """Losses of the learned tokens alone: the head, costly with a large vocabulary, sees no other position.

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
