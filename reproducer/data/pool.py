"""Calibration pools: what samples are drawn from, passages or windows of a text, or a mix of texts in given shares."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from reproducer.data.files import DataError
from reproducer.data.text import Text, Tokenizer, windows
from reproducer.tokenizing import opened

if TYPE_CHECKING:
    import torch

BLOCK = 256  # rows that are read together: large data sets are memory-mapped, cheap to read so
BEHIND = 2  # windows whose text stands for one: another tokenizer may need more of it


@dataclass(frozen=True)
class Pool:
    """What one text offers.

    Attributes:
        ids: LongTensor [pool, length].
        source: the text they are from.
        text: text that begins with what a row of `ids` holds.
        places: which passage of the text, or which window, each row is.
        windows: whether they are windows of the whole text, and not passages.
        used: of how many of `seen` passages samples are made; `seen` is 0 where short ones are not packed.
    """

    ids: torch.Tensor
    source: Text
    text: Callable[[int], str]
    places: Sequence[int]
    windows: bool = False
    used: int = 0
    seen: int = 0

    @property
    def summary(self) -> str:
        """What became of the passages, for a person; empty where it is the same for everybody."""
        if not self.seen:
            return ""
        return (
            f"{self.source.name}: {len(self):,} samples of {self.ids.shape[1]} tokens out of {self.used:,} of "
            f"{self.seen:,} rows, short ones packed together; {self.seen - self.used:,} are left out"
        )

    def __len__(self) -> int:
        return len(self.ids)

    def draw(self, samples: int, seed: int) -> list[int]:
        """Ascending rows of `ids`, drawn as `draw` does. DataError names the data set where the pool is too small."""
        if samples > len(self):
            raise _too_small(samples, self.ids.shape[1], self.source, len(self), self.windows)
        return draw(len(self), samples, seed)


@dataclass(frozen=True)
class Mix:
    """Several pools side by side, of which samples are drawn in given shares.

    Attributes:
        pools: of the same length a sample.
        shares: positive, with the sum 1.
    """

    pools: Sequence[Pool]
    shares: Sequence[float]

    @cached_property
    def ids(self) -> torch.Tensor:
        import torch

        return torch.cat([pool.ids for pool in self.pools])

    @property
    def summary(self) -> str:
        """What became of each pool's passages."""
        return "\n".join(pool.summary for pool in self.pools if pool.summary)

    def __len__(self) -> int:
        return sum(map(len, self.pools))

    def text(self, index: int) -> str:
        for pool in self.pools:
            if index < len(pool):
                return pool.text(index)
            index -= len(pool)
        raise IndexError(index)

    def draw(self, samples: int, seed: int) -> list[int]:
        """As many rows of each pool as its share says, each pool drawn as `draw` does."""
        rows: list[int] = []
        start = 0
        for number, (pool, count) in enumerate(zip(self.pools, apportioned(samples, self.shares), strict=True)):
            # pools of equal sizes would give the same rows for the same seed
            rows += [start + index for index in pool.draw(count, seed + number * 2**32)]
            start += len(pool)
        return rows


Samples = Pool | Mix
"""What samples are drawn from: `ids` is a LongTensor [pool, length], each row a possible sample."""


def apportioned(count: int, shares: Sequence[float]) -> list[int]:
    """`count` divided in these shares, by the largest remainders; of equal ones the first wins."""
    exact = [count * share for share in shares]
    parts = [math.floor(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda index: (parts[index] - exact[index], index))
    for index in by_remainder[: count - sum(parts)]:
        parts[index] += 1
    return parts


def calibration_pool(text: Text, tokenizer: Tokenizer, length: int, size: int | None = None) -> Pool:
    """Tokenise a text's passages one by one and keep those of at least `length` tokens; or pack short ones together.

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

    text, tokenizer = text.read_by(tokenizer), opened(tokenizer)
    count, samples = len(text.passages), _packed if text.packed else _long
    block = BLOCK if text.packed else min(max(1, count // 512), BLOCK)
    found: dict[int, tuple[list[int], str]] = {}
    used = seen = 0
    for start in _spread(range(0, count, block)):
        passages = list(text.passages[start : start + block])
        seen += len(passages)
        for place, ids, joined in samples(text, passages, tokenizer, length):
            found[start + place] = ids[:length], text.join.join(joined)
            used += len(joined)
        if size is not None and len(found) >= size:
            break
    if len(found) < (size or 1):
        raise _too_small(size or 1, length, text, len(found))
    places = sorted(list(found)[:size])
    kept = torch.tensor([found[place][0] for place in places], dtype=torch.long)
    seen = seen if text.packed else 0
    return Pool(kept, text, lambda index: found[places[index]][1], places, used=used, seen=seen)


Sample = tuple[int, list[int], list[str]]  # place of its first passage, its tokens and more, all its passages


def _long(text: Text, passages: list[str], tokenizer: Tokenizer, length: int) -> Iterator[Sample]:
    """Each passage of at least `length` tokens."""
    # No passage has more tokens than bytes, a few special tokens aside: short ones need no tokenizer.
    batch = {place: passage for place, passage in enumerate(passages) if len(passage.encode()) + 4 >= length}
    for place, ids in zip(batch, _tokenise(tokenizer, list(batch.values())), strict=True):
        if len(ids) >= length:
            yield place, ids, [batch[place]]


def _packed(text: Text, passages: list[str], tokenizer: Tokenizer, length: int) -> Iterator[Sample]:
    """Each passage of at least `length` tokens, and short ones that follow each other as one sample."""
    run: list[str] = []
    first = tokens = 0
    for place, (passage, ids) in enumerate(zip(passages, _tokenise(tokenizer, passages), strict=True)):
        if len(ids) >= length:
            yield place, ids, [passage]
        elif passage.strip():
            first, run, tokens = (first if run else place), [*run, passage], tokens + len(ids)
            if tokens >= length and len(ids := _tokenise(tokenizer, [text.join.join(run)])[0]) >= length:
                yield first, ids, run
                run, tokens = [], 0


def window_pool(text: Text, tokenizer: Any, length: int, size: int | None = None) -> Pool:
    """The windows of a text that perplexity is measured over, as samples: for texts of short rows, such as PTB's.

    Args:
        text, tokenizer, length: as in `windows`.
        size: take the first so many; None takes all.

    Raises:
        DataError: the text has fewer windows than `size`, or none.
    """
    every = windows(text, tokenizer, length)
    if size is not None and size > len(every):
        raise _too_small(size, length, text, len(every), windows=True)

    def beginning(index: int) -> str:
        following = every[index : index + BEHIND].flatten()
        return str(tokenizer.decode(following, skip_special_tokens=True))

    return Pool(every[:size], text, beginning, range(len(every))[:size], windows=True)


def cut_samples(passages: list[str], tokenizer: Tokenizer, length: int) -> torch.Tensor:
    """Chosen passages as calibration samples of another tokenizer: LongTensor [passages, length].

    Raises:
        DataError: a passage has fewer than `length` tokens of this tokenizer.
    """
    import torch

    found = _tokenise(opened(tokenizer), passages)
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


def _too_small(asked: int, length: int, text: Text, found: int, windows: bool = False) -> DataError:
    if windows:
        message = f"asked for {asked:,} windows of {length} tokens; there are {found:,} of {text.name} ({text.role})"
        return DataError(message)
    return DataError(
        f"asked for {asked} samples of at least {length} tokens; the pool has {found} "
        f"(dataset {text.name}, {len(text.passages)} passages, {found} long enough"
        f"{' once short ones are packed' if text.packed else ''})"
    )
