"""What a stage asks of a device: tokens through a model of some shape, and what that makes in products and bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from reproducer.data.sizes import text_size

READING, FETCHING = 1e9, 5e7  # bytes a second from a disk, and from a hub or a package registry
CHARACTERS_PER_TOKEN = 4.0  # LLaMA's tokenizer makes a token of 3.8 characters of WikiText2, SmolLM2's of 4.2
ACTIVATIONS = 24  # numbers that a layer keeps of a token for its backward pass, in widths of the hidden states
REDUCING = 24  # bytes moved for each number of a gradient that is formed and reduced to statistics, in float32
EFFICIENCY = 0.6  # of a square product's rate, which a pass through a model reaches


@dataclass(frozen=True)
class Rates:
    """Of one dtype, a second: operations of a square product, and bytes read and written."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Cost:
    """What a stage asks of a device. Of two in a row all but the memory adds up.

    Attributes:
        forward, backward: tokens through all decoder layers, each way.
        scored: tokens that get logits, or losses.
        passes: that read all weights for a few tokens, as writing does.
        gradients: weight-sized gradients that are formed and reduced.
        seconds: whatever the device, for reading, writing and fetching files.
        memory: bytes at once beside the model's weights.
    """

    forward: float = 0.0
    backward: float = 0.0
    scored: float = 0.0
    passes: float = 0.0
    gradients: float = 0.0
    seconds: float = 0.0
    memory: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        added = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return Cost(**added | {"memory": max(self.memory, other.memory)})

    def __mul__(self, times: float) -> Cost:
        return Cost(**{name: times * value for name, value in vars(self).items()} | {"memory": self.memory})


@dataclass(frozen=True)
class ModelShape:
    """A model as a stage finds it.

    Attributes:
        layers, width, vocabulary: numbers of decoder layers, of a hidden state, and of words.
        layer, rest: parameters of a decoder layer, and outside of all of them.
        dtype: of weights and computation, as torch calls it; `item`: bytes of a number.
        kept: the share of its layers' weights that is left, taken to be the same in every layer.
        characters: of a token.
    """

    layers: int
    width: int
    vocabulary: int
    layer: float
    rest: float
    dtype: str
    item: int
    kept: float = 1.0
    characters: float = CHARACTERS_PER_TOKEN

    @property
    def parameters(self) -> float:
        """All that are left, tied embeddings counted once."""
        return self.rest + self.layers * self.layer * self.kept

    @property
    def weights(self) -> float:
        """Bytes of them."""
        return self.parameters * self.item

    def cut(self, cut: Any) -> Self:
        """What a stage's cut leaves; heads and channels not rounded."""
        if cut.ratio is not None:
            removed = cut.ratio * (self.rest / self.layer + self.layers) / self.layers
        else:
            removed = cut.structure_ratio * len(cut.within(self.layers)) / self.layers
        return replace(self, kept=max(0.0, 1 - removed))

    def tokens(self, characters: float) -> float:
        return characters / self.characters

    def window_tokens(self, texts: Iterable[Any], length: int, limit: int | None) -> float:
        """Tokens of all windows of texts (each with `name` and `source`), or of the first so many of each."""
        counts = [max(1, int(self.tokens(text_size(text.name, text.source)) // length)) for text in texts]
        return float(length * sum(min(count, limit or count) for count in counts))

    def hidden(self, tokens: float) -> float:
        """Bytes of the hidden states between two layers."""
        return tokens * self.width * self.item

    def passes(self, tokens: float, batch: float, logits: float = 0.0, scored: float = 1.0) -> Cost:
        """Forward passes of `tokens`, `batch` of them at once.

        Args:
            logits: tokens whose logits are there at once.
            scored: the share of tokens that are scored.
        """
        memory = self.hidden(ACTIVATIONS / 2 * min(batch, tokens)) + 2 * logits * self.vocabulary * self.item
        return Cost(tokens, scored=scored * tokens, memory=memory)

    def written(self, tokens: float, batch: float = 1) -> Cost:
        """Tokens written one after the other, `batch` texts at once: each reads all weights."""
        return replace(self.passes(tokens, batch, batch), passes=tokens / batch)

    def learning(self, forward: float, both: float, length: float, batch: float, limit: float = math.inf) -> Cost:
        """Sequences of `length` tokens that go forward alone, and forward and backward; `batch` of the latter at once.

        Args:
            limit: bytes of activations that are kept; layers beyond it run forward twice.
        """
        kept = self.layers * self.hidden(ACTIVATIONS * batch * length)
        again = both * max(0.0, 1 - limit / kept) if kept else 0.0
        passes = self.passes((forward + both + again) * length, batch * length)
        return replace(passes, backward=both * length, memory=min(kept, limit) + kept / self.layers)

    def collected(self, needs: Iterable[Any], samples: float, length: int, batch: float, limit: float) -> Cost:
        """Statistics of all layers, of `samples` samples of `length` tokens, `batch` of them at once."""
        from reproducer.pruning.statistics import GradientStatistic, WeightStatistic

        needs = list(needs)
        if any(isinstance(need, GradientStatistic) for need in needs):
            return replace(self.learning(0, samples, length, batch, limit), gradients=samples)
        if all(isinstance(need, WeightStatistic) for need in needs):
            return Cost(gradients=float(len(needs) > 0), memory=4 * self.layer)
        return self.passes(samples * length, batch * length, scored=0.0)

    def repaired(self, samples: float, length: int) -> Cost:
        """A least-squares repair: the dense model once, the pruned one twice and its attention once more, and XᵀX.

        In memory beside the weights are the states of both models at both projections of a layer, a dense layer, and
        the sums and factors of one projection, in float32.
        """
        tokens = samples * length
        inputs = self.layer * self.kept / (4 * self.width)  # of the largest projection: about a quarter of a layer
        products = tokens * inputs * (inputs + self.width) / (self.layer * self.kept)  # in passes through a layer
        passes = self.passes((1 / self.kept + 2.5) * tokens + products, 16 * length, scored=0.0)
        return replace(passes, memory=4 * self.hidden(tokens) + self.layer * self.item + 24 * inputs * inputs)

    def seconds(self, cost: Cost, rates: Rates) -> float:
        """Matrix products by tokens, a backward pass twice as many; traffic where that is what takes time."""
        layers, head = self.layers * self.layer * self.kept, self.width * self.vocabulary
        share = 2 * cost.backward / cost.forward if cost.forward else 0.0
        flops = 2 * layers * (cost.forward + 2 * cost.backward) + 2 * head * cost.scored * (1 + share)
        moved = cost.passes * self.weights + REDUCING * cost.gradients * layers
        return flops / (EFFICIENCY * rates.flops) + moved / rates.bytes + cost.seconds
