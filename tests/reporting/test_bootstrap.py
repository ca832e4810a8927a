"""The bootstrap against independent computations, and its coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from scipy.stats import ttest_rel

from reproducer.reporting.bootstrap import interval, of_errors
from reproducer.reporting.rules.effects import log_ratio, mapped, percent_change, points, share, share_above


def scores(seeds=5, items=60, columns=1, seed=0, gain=0.0, of_seed=0.05, of_item=0.3, of_pair=0.0, rest=0.1):
    """[seeds, items, 2] a column: what an item adds (`of_item`) is the same for both sides but for its `of_pair`."""
    draw = np.random.RandomState(seed)
    luck = draw.normal(0, of_seed, (seeds, 1, 1)) * [1, 0]
    made = []
    for _ in range(columns):
        item = draw.normal(0, of_item, (1, items, 1)) + draw.normal(0, of_pair, (1, items, 1)) * [1, 0]
        made.append(item + luck + draw.normal(0, rest, (seeds, items, 2)) + np.array([gain, 0.0]))
    return made


def test_the_interval_is_that_of_the_closed_form():
    """For a mean, both errors are those of the textbook: s / √n of the seeds' means and of the items' means."""
    (pair,) = scores(seeds=8, items=40, seed=3, of_pair=0.2)
    differences = pair[:, :, 0] - pair[:, :, 1]
    n, m = differences.shape
    by_seeds = student.ppf(0.975, n - 1) * differences.mean(axis=1).std(ddof=1) / math.sqrt(n)
    by_items = student.ppf(0.975, m - 1) * differences.mean(axis=0).std(ddof=1) / math.sqrt(m)
    found = interval([pair], lambda means: means[..., 0, 0] - means[..., 0, 1], draws=20_000)
    assert found.value == pytest.approx(differences.mean())
    # three standard errors of 20,000 draws
    assert (found.high - found.low) / 2 == pytest.approx(math.hypot(by_seeds, by_items), rel=0.03)


def test_of_one_item_it_is_the_paired_t_test():
    draw = np.random.RandomState(1)
    pair = draw.normal(size=(6, 1, 2)) + np.array([0.5, 0])
    found = interval([pair], log_ratio, draws=50_000)
    test = ttest_rel(pair[:, 0, 0], pair[:, 0, 1])
    assert found.distance == pytest.approx(test.statistic, rel=0.02)
    assert found.p == pytest.approx(test.pvalue, rel=0.1)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0.01, 10), st.integers(0, 60)), min_size=1, max_size=3), st.floats(-20, 20))
def test_p_and_interval_agree(sources, value):
    """The value is at an end of the interval of its own p; of one source p is that of Student's t."""
    found = of_errors(value, sources)
    assert (found.p < 0.05) == (abs(value) > (found.high - found.low) / 2)
    if len(sources) == 1:
        ((error, degrees),) = sources
        assert found.p == pytest.approx(2 * student.sf(abs(value) / error, degrees or math.inf), rel=1e-6, abs=1e-99)
    assert of_errors(value + 1.5, sources, threshold=1.5).p == pytest.approx(found.p, rel=1e-6, abs=1e-99)


@pytest.mark.parametrize(("of_seed", "of_pair"), [(0.1, 0.0), (0.0, 0.3), (0.05, 0.3)])
def test_intervals_cover_the_truth_at_least_as_often_as_they_say(of_seed, of_pair):
    repeats, hit = 300, 0
    for seed in range(repeats):
        pairs = scores(3, items=50, seed=seed, gain=0.2, of_seed=of_seed, of_pair=of_pair)
        found = interval(pairs, log_ratio, draws=200)
        hit += found.low <= 0.2 <= found.high
    assert hit / repeats > 0.95 - 3 * math.sqrt(0.95 * 0.05 / repeats)


def test_it_finds_what_it_says_it_can_find():
    """A gain of the detectable size is significant in four of five repetitions, give or take."""
    seen = [interval(scores(items=30, seed=seed), log_ratio, draws=200).detectable for seed in range(100)]
    gain = float(np.mean(seen))
    found = [interval(scores(items=30, seed=seed, gain=gain), log_ratio, draws=200).p < 0.05 for seed in range(300)]
    assert 0.7 < np.mean(found) < 0.95


def test_it_is_the_same_every_time_and_turns_with_its_sides():
    pairs = scores(columns=3)
    first, again = interval(pairs, points), interval([pair.copy() for pair in pairs], points)
    assert first == again
    turned = interval([pair[:, :, ::-1] for pair in pairs], points)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-first.value, -first.high, -first.low))
    assert turned.p == pytest.approx(first.p)
    shifted = interval([pair + 0.7 for pair in pairs], points)
    assert (shifted.low, shifted.high) == pytest.approx((first.low, first.high))
    scaled = interval([10 * pair for pair in pairs], points)
    assert scaled.p == pytest.approx(first.p) and scaled.low == pytest.approx(10 * first.low)


def test_statistics_are_of_the_columns_means():
    means = np.array([[0.6, 0.5], [0.4, 0.4], [0.2, 0.3]])
    assert points(means) == pytest.approx(0.0)
    assert share(means) == pytest.approx(100.0)
    assert share_above(means) == pytest.approx(50.0)
    assert percent_change(float(log_ratio(np.array([[math.log(18), math.log(20)]])))) == pytest.approx(-10)


def test_equal_means_are_a_tie_in_whatever_order_they_were_added():
    """They are off by a rounding that depends on the processor; it must not decide which side is above."""
    means = np.array([[0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1]])
    assert means[0, 0] != means[0, 1]
    assert share_above(means) == share_above(means[:, ::-1]) == 50


def test_another_scale_moves_ends_and_what_is_detectable():
    found = mapped(of_errors(math.log(0.9), [(0.02, 4)]), percent_change, lower=True)
    half = student.ppf(0.975, 4) * 0.02
    assert (found.value, found.low) == pytest.approx((-10, 100 * (0.9 * math.exp(-half) - 1)))
    assert found.detectable == pytest.approx(100 * (1 - math.exp(-half - student.ppf(0.8, 4) * 0.02)))


@pytest.mark.parametrize("degrees", [0, 1, 4, 49])
def test_what_is_far_beyond_doubt_has_a_p_all_the_same(degrees):
    for error in (0.0, 1e-12, 1.0):
        found = of_errors(1e3, [(1e-9, degrees), (error, 49)])
        assert 0 <= found.p < 1e-3 and found.low <= 1e3 <= found.high
