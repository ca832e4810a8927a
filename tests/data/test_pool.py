import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reproducer.data.files import DataError
from reproducer.data.pool import Mix, apportioned, calibration_pool, draw, window_pool
from reproducer.data.sources import Rows
from reproducer.data.text import Text, windows
from tests.data.conftest import Words


def text_of(*lengths):
    passages = [
        " ".join([f"p{place}", *(f"w{i}" for i in range(1, length))][:length]) for place, length in enumerate(lengths)
    ]
    rows = Rows([{"text": passage} for passage in passages], "path", "own.jsonl", "0" * 64)
    return Text("own", "calibration", passages, rows)


def places(pool):
    """The places of a pool's passages in its text."""
    return [pool.source.passages.index(pool.text(row)) for row in range(len(pool))]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(1, 20), st.sampled_from([None, 7]))
def test_the_pool_holds_the_long_passages_cut_to_length(lengths, length, first):
    text = text_of(*lengths)
    tokenized = [Words(first).encode(passage) for passage in text.passages]
    words = Words(first)
    long_enough = [index for index, ids in enumerate(tokenized) if len(ids) >= length]
    if not long_enough:
        with pytest.raises(DataError, match="the pool has 0"):
            calibration_pool(text, words, length)
        return
    pool = calibration_pool(text, words, length)
    assert [pool.text(row) for row in range(len(pool))] == [text.passages[index] for index in long_enough]
    assert pool.ids.dtype == torch.long
    assert pool.ids.shape == (len(long_enough), length)
    names = {number: word for word, number in words.vocabulary.items()}
    for row, ids in enumerate(pool.ids.tolist()):
        ids = ids[1:] if first is not None else ids
        assert pool.text(row).startswith(" ".join(names[i] for i in ids))


def test_a_smaller_pool_is_spread_over_the_text_and_reads_no_more_than_it_needs(words):
    text = text_of(*[20] * 4000)
    pool = calibration_pool(text, words, 16, size=64)
    assert len(pool) == 64
    assert places(pool) == sorted(set(places(pool)))
    per_quarter = [sum(q * 1000 <= index < (q + 1) * 1000 for index in places(pool)) for q in range(4)]
    assert min(per_quarter) >= 8
    assert words.calls < 4000 / 7 / 2, "most blocks are left alone"
    assert places(pool) == places(calibration_pool(text, Words(), 16, size=64))


def test_sizes_of_the_whole_pool_and_beyond(words):
    text = text_of(20, 3, 20, 20)
    assert places(calibration_pool(text, words, 16, size=3)) == places(calibration_pool(text, words, 16)) == [0, 2, 3]
    message = r"asked for 4 samples of at least 16 tokens; the pool has 3 \(dataset own, 4 passages, 3 long enough\)"
    with pytest.raises(DataError, match=message):
        calibration_pool(text, words, 16, size=4)
    with pytest.raises(DataError, match=message):
        calibration_pool(text, words, 16).draw(4, seed=0)


def test_draws_are_sorted_distinct_and_follow_the_seed():
    first = draw(500, 10, seed=0)
    assert first == sorted(set(first)) == draw(500, 10, seed=0)
    assert len(first) == 10
    assert first != draw(500, 10, seed=1)
    assert draw(10, 10, seed=3) == list(range(10))
    assert calibration_pool(text_of(*[20] * 50), Words(), 16).draw(10, 4) == draw(50, 10, 4)


def test_draws_are_the_same_everywhere():
    """The numbers are what every machine must give: a change here changes every result that a report shows."""
    assert draw(171, 10, seed=0) == sorted(random.Random(0).sample(range(171), 10))
    assert draw(171, 10, seed=0) == [10, 66, 77, 91, 98, 103, 107, 122, 124, 130]


def test_windows_of_a_text_are_samples_too(words):
    text = text_of(20, 3, 20, 20)
    whole, part = window_pool(text, words, 7), window_pool(text, words, 7, size=3)
    assert torch.equal(whole.ids, windows(text, words, 7)) and torch.equal(part.ids, whole.ids[:3])
    begun = [words.encode(part.text(row))[:7] for row in range(3)]
    assert begun == part.ids.tolist(), "what stands for a window begins with it"
    with pytest.raises(DataError, match=r"asked for 10 windows of 7 tokens; there are 9 of own \(calibration\)"):
        window_pool(text, words, 7, size=10)


@given(st.integers(1, 60), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_samples_are_divided_in_the_stated_shares(count, weights):
    shares = [weight / sum(weights) for weight in weights]
    counts = apportioned(count, shares)
    assert sum(counts) == count
    assert all(abs(one - count * share) < 1 for one, share in zip(counts, shares, strict=True))


def test_a_mix_draws_from_each_of_its_texts():
    pools = [calibration_pool(text_of(*[20] * size), Words(), 16) for size in (30, 50)]
    mix = Mix(pools, (0.25, 0.75))
    assert len(mix) == 80 and mix.ids.shape == (80, 16)
    rows = mix.draw(8, seed=1)
    assert rows == sorted(set(rows)) == mix.draw(8, seed=1) != mix.draw(8, seed=2)
    assert sum(row < 30 for row in rows) == 2
    assert [mix.text(row) for row in (29, 30, 79)] == [pools[0].text(29), pools[1].text(0), pools[1].text(49)]
    halves = Mix([pools[0], pools[0]], (0.5, 0.5)).draw(10, seed=0)
    assert [row - 30 for row in halves[5:]] != halves[:5], "not the same places in each"


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(2, 20))
def test_short_rows_of_ones_own_are_packed(lengths, length):
    """What is left out, at most one run of rows that are shorter than a sample together, is told."""
    text = replace(text_of(*lengths), packed=True)
    short = sum(size for size in lengths if size < length)
    if not (any(size >= length for size in lengths) or short >= length + len(lengths)):
        return
    pool = calibration_pool(text, Words(), length)
    for row in range(len(pool)):
        parts = pool.text(row).split("\n\n")
        assert parts == [text.passages[text.passages.index(part)] for part in parts]
        assert sum(len(Words().encode(part)) for part in parts[:-1]) < length <= len(Words().encode(pool.text(row)))
    used = [part for row in range(len(pool)) for part in pool.text(row).split("\n\n")]
    assert len(set(used)) == len(used) == pool.used and pool.seen == len(lengths)
    rest = [size for size, passage in zip(lengths, text.passages, strict=True) if passage not in used]
    assert sum(rest) < length and f"{len(rest)} are left out" in pool.summary
