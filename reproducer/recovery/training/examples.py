"""What is learned from: token sequences of which only the response is learned, and their order in phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reproducer.models.training import batch_rows
from reproducer.tokenizing import opened

IGNORED = -100  # the label of a token that is not learned


@dataclass(frozen=True)
class Example:
    """One tokenised row.

    Attributes:
        ids: prompt and response, at most `cutoff` tokens, closed by the end token where it fits.
        prompt: how many of them, from the first, are prompt.
    """

    ids: list[int]
    prompt: int

    @property
    def targets(self) -> int:
        """Response tokens that have a prediction: nothing predicts the very first token of a sequence."""
        return max(0, len(self.ids) - max(1, self.prompt))


@dataclass(frozen=True)
class Phase:
    """A stretch of a training run: examples of one source, under a schedule of their own.

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
        rows = batch_rows(len(self.examples), step, size, seed, self.source, self.passes)
        return [self.examples[row] for row in rows]


def tokenised(pairs: Sequence[tuple[str, str]], tokenizer: Any, cutoff: int) -> tuple[list[Example], int]:
    """Prompts with their responses as LLM-Pruner tokenises them (its `post_training.py`).

    Prompt and response are tokenised together; the prompt alone says how many leading tokens are prompt. What
    is longer than `cutoff` is cut at its end; what is shorter gets the end token. The tokenizer is not changed
    and needs no padding token.

    Args:
        pairs: a prompt and its response each.
        tokenizer: a transformers tokenizer.
        cutoff: the most tokens of one example.

    Returns:
        The examples in the order of the rows, and how many rows were dropped because the cut left nothing of
        their response.
    """
    if not pairs:
        return [], 0
    tokenizer = opened(tokenizer)
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    sequences = tokenizer([prompt + response for prompt, response in pairs])["input_ids"]
    end = tokenizer.eos_token_id
    examples = []
    for prompt, sequence in zip(prompts, sequences, strict=True):
        ids = list(sequence[:cutoff])
        if end is not None and len(ids) < cutoff and ids[-1:] != [end]:
            ids.append(end)
        example = Example(ids, min(len(prompt), len(ids)))
        if example.targets:
            examples.append(example)
    return examples, len(pairs) - len(examples)


def padded(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a micro-batch, padded on the right with token 0, which every vocabulary has.

    No attention mask is needed: attention is causal, so that no token sees the padding behind it, and the labels
    leave the padding and the prompts out of the loss.

    Returns:
        LongTensors [examples, longest]: ids, and labels with -100 where nothing is learned.
    """
    longest = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), longest), 0, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        length = len(example.ids)
        ids[row, :length] = torch.tensor(example.ids)
        labels[row, example.prompt : length] = ids[row, example.prompt : length]
    return ids, labels
