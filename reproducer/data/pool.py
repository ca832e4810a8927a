"""The calibration pool: passages long enough to be samples, and reproducible draws from it."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reproducer.data.files import DataError
from reproducer.data.text import Text, Tokenizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Pool:
    """Passages of at least `length` tokens, cut to their first `length`.

    Attributes:
        ids: LongTensor [passages, length].
        passages: the index of each row of `ids` among the text's passages, ascending.
        source: the text they are from.
    """

    ids: "torch.Tensor"
    passages: list[int]
    source: Text

    def __len__(self) -> int:
        return len(self.passages)

    def text(self, index: int) -> str:
        """The whole passage that a row of `ids` begins."""
        return self.source.passages[self.passages[index]]

    def draw(self, samples: int, seed: int) -> list[int]:
        """Rows of `ids` drawn as `draw` does. DataError names the data set where the pool is too small."""
        if samples > len(self):
            raise _too_small(samples, self.ids.shape[1], self.source, len(self))
        return draw(len(self), samples, seed)


def calibration_pool(text: Text, tokenizer: Tokenizer, length: int, size: int | None = None) -> Pool:
    """Tokenise a text's passages one by one and keep those of at least `length` tokens.

    Args:
        text: the text, in any role.
        tokenizer: a transformers tokenizer; its special tokens count, as in LLM-Pruner.
        length: tokens a sample.
        size: take so many passages, spread evenly over the text, and tokenise no more of it than that needs;
            None takes all.

    Raises:
        DataError: no passage is long enough, or fewer than `size`.
    """
    import torch

    count = len(text.passages)
    block = min(max(1, count // 512), 256)  # rows of large data sets are memory-mapped: cheap to read in blocks
    found: dict[int, list[int]] = {}
    for start in _spread(range(0, count, block)):
        # No passage has more tokens than bytes, a few special tokens aside: short ones need no tokenizer.
        rows = enumerate(text.passages[start : start + block], start)
        batch = {index: passage for index, passage in rows if len(passage.encode()) + 4 >= length}
        for index, ids in zip(batch, _tokenise(tokenizer, list(batch.values())), strict=True):
            if len(ids) >= length:
                found[index] = ids[:length]
        if size is not None and len(found) >= size:
            break
    if len(found) < (size or 1):
        raise _too_small(size or 1, length, text, len(found))
    passages = sorted(list(found)[:size])
    return Pool(torch.tensor([found[index] for index in passages], dtype=torch.long), passages, text)


def cut_samples(passages: list[str], tokenizer: Tokenizer, length: int) -> "torch.Tensor":
    """Chosen passages as calibration samples of another tokenizer: LongTensor [passages, length].

    Raises:
        DataError: a passage has fewer than `length` tokens of this tokenizer.
    """
    import torch

    found = _tokenise(tokenizer, passages)
    short = [len(ids) for ids in found if len(ids) < length]
    if short:
        raise DataError(f"a passage has {short[0]} tokens of this model's tokenizer; samples of {length} are asked for")
    return torch.tensor([ids[:length] for ids in found], dtype=torch.long)


def draw(pool_size: int, samples: int, seed: int) -> list[int]:
    """Draw without replacement; the same on every machine and with every version of torch.

    Returns:
        `samples` ascending indices below `pool_size`.

    Raises:
        DataError: the pool is smaller than what is asked for.
    """
    if samples > pool_size:
        raise DataError(f"asked for {samples} samples; the pool has {pool_size}")
    return sorted(random.Random(seed).sample(range(pool_size), samples))


def _spread(positions: range) -> Iterator[int]:
    """All positions, in an order of which every beginning is spread evenly over them (golden-ratio steps)."""
    count = len(positions)
    step = max(1, round(count * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, count) > 1:
        step += 1
    return (positions[(i * step) % count] for i in range(count))


def _tokenise(tokenizer: Tokenizer, passages: list[str]) -> list[list[int]]:
    return tokenizer(passages, verbose=False)["input_ids"] if passages else []


def _too_small(samples: int, length: int, text: Text, found: int) -> DataError:
    return DataError(
        f"asked for {samples} samples of at least {length} tokens; the pool has {found} "
        f"(dataset {text.name}, {len(text.passages)} passages, {found} long enough)"
    )
