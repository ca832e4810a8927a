import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reproducer.data.files import DataError
from reproducer.data.pool import calibration_pool, draw
from reproducer.data.sources import Rows
from reproducer.data.text import Text
from tests.data.conftest import Words


def text_of(*lengths):
    passages = [" ".join(f"w{i}" for i in range(length)) for length in lengths]
    rows = Rows([{"text": passage} for passage in passages], "path", "own.jsonl", "0" * 64)
    return Text("own", "calibration", passages, rows)


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
    assert pool.passages == long_enough
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
    assert pool.passages == sorted(set(pool.passages))
    per_quarter = [sum(q * 1000 <= index < (q + 1) * 1000 for index in pool.passages) for q in range(4)]
    assert min(per_quarter) >= 8
    assert words.calls < 4000 / 7 / 2, "most blocks are left alone"
    assert pool.passages == calibration_pool(text, Words(), 16, size=64).passages


def test_sizes_of_the_whole_pool_and_beyond(words):
    text = text_of(20, 3, 20, 20)
    assert calibration_pool(text, words, 16, size=3).passages == calibration_pool(text, words, 16).passages == [0, 2, 3]
    message = r"asked for 4 samples of at least 16 tokens; the pool has 3 \(dataset own, 4 passages, 3 long enough\)"
    with pytest.raises(DataError, match=message):
        calibration_pool(text, words, 16, size=4)
    with pytest.raises(DataError, match=message):
        calibration_pool(text, words, 16).draw(4, seed=0)


def test_passages_too_short_in_bytes_never_meet_the_tokenizer(words):
    calibration_pool(text_of(20, 1, 1, 20), words, 16)
    assert words.calls == 2


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


def test_draws_leave_the_global_generators_alone():
    random.seed(5)
    torch.manual_seed(5)
    state, torch_state = random.getstate(), torch.get_rng_state()
    draw(100, 10, seed=0)
    assert random.getstate() == state
    assert torch.get_rng_state().equal(torch_state)


def test_a_pool_smaller_than_the_draw():
    with pytest.raises(DataError, match="asked for 11 samples; the pool has 10"):
        draw(10, 11, seed=0)
