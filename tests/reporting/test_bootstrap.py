"""The bootstrap against independent computations, and its coverage."""

import math

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from reproducer.reporting.bootstrap import interval, of_error, resampled
from reproducer.reporting.rules import log_ratio, mapped, percent_change, points, share, share_above


def scores(seeds=5, items=60, columns=1, seed=0, gain=0.0, of_seed=0.05, of_item=0.3):
    """[seeds, items, 2] a column: what an item adds is the same for both sides."""
    draw = np.random.RandomState(seed)
    luck = draw.normal(0, of_seed, (seeds, 1, 1)) * [1, 0]
    made = []
    for _ in range(columns):
        item = draw.normal(0, of_item, (1, items, 1))
        made.append(item + luck + draw.normal(0, 0.1, (seeds, items, 2)) + np.array([gain, 0.0]))
    return made


def test_resamples_have_the_means_that_a_loop_over_indices_gives():
    pairs = scores(columns=2)
    draws = 50
    seeds = np.random.RandomState(2025 - 1).randint(5, size=(draws, 5))
    for place, pair in enumerate(pairs):
        items = np.random.RandomState(2025 + place).randint(60, size=(draws, 60))
        for draw in range(draws):
            expected = pair[seeds[draw]][:, items[draw]].mean(axis=(0, 1))
            np.testing.assert_allclose(resampled(pairs, draws)[draw, place], expected, rtol=1e-12)


def test_the_error_is_that_of_the_closed_form():
    """Resampling rows and columns of a matrix: the variance of the mean (Owen 2007) as sums of squares."""
    (pair,) = scores(seeds=8, items=40, seed=3)
    differences = pair[:, :, 0] - pair[:, :, 1]
    n, m = differences.shape
    centred = differences - differences.mean()
    of_rows, of_columns = (centred.mean(axis=axis) for axis in (1, 0))
    rest = centred - of_rows[:, None] - of_columns
    # drawn shares have the variance (1 - 1/n) / n² and the covariance -1/n³; rest sums to 0 along both
    variance = (of_rows**2).mean() / n + (of_columns**2).mean() / m + (rest**2).mean() / (n * m)
    error = math.sqrt(variance * n / (n - 1))
    found = interval([pair], lambda means: means[..., 0, 0] - means[..., 0, 1], draws=20_000)
    assert found.value == pytest.approx(differences.mean())
    half = student.ppf(0.975, n - 1) * error
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.03)  # three standard errors of 20,000 draws


def test_of_one_item_it_is_the_paired_t_test():
    draw = np.random.RandomState(1)
    pair = draw.normal(size=(6, 1, 2)) + np.array([0.5, 0])
    found = interval([pair], log_ratio, draws=50_000)
    test = ttest_rel(pair[:, 0, 0], pair[:, 0, 1])
    assert found.distance == pytest.approx(test.statistic, rel=0.02)
    assert found.p == pytest.approx(test.pvalue, rel=0.1)


@pytest.mark.parametrize(("of_seed", "of_item"), [(0.1, 0.3), (0.02, 0.0), (0.0, 0.3)])
def test_intervals_cover_the_truth_at_least_as_often_as_they_say(of_seed, of_item):
    """With five seeds; more often where items vary, whose noise the two levels both count."""
    repeats, hit = 400, 0
    for seed in range(repeats):
        pairs = scores(columns=1, items=30, seed=seed, gain=0.2, of_seed=of_seed, of_item=of_item)
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


def test_more_seeds_and_more_items_tell_more():
    few = interval(scores(seeds=3), points)
    more = interval(scores(seeds=12), points)
    assert more.high - more.low < few.high - few.low and more.detectable < few.detectable
    alone = interval(scores(seeds=1, items=50), points)
    assert 0 < alone.high - alone.low < math.inf  # over the items of one model


def test_statistics_are_of_the_columns_means():
    means = np.array([[0.6, 0.5], [0.4, 0.4], [0.2, 0.3]])
    assert points(means) == pytest.approx(0.0)
    assert share(means) == pytest.approx(100.0)
    assert share_above(means) == pytest.approx(50.0)
    assert percent_change(float(log_ratio(np.array([[math.log(18), math.log(20)]])))) == pytest.approx(-10)


def test_another_scale_moves_ends_and_what_is_detectable():
    found = mapped(of_error(math.log(0.9), 0.02, 4), percent_change, lower=True)
    half = student.ppf(0.975, 4) * 0.02
    assert (found.value, found.low) == pytest.approx((-10, 100 * (0.9 * math.exp(-half) - 1)))
    assert found.detectable == pytest.approx(100 * (1 - math.exp(-half - student.ppf(0.8, 4) * 0.02)))


def test_without_variance_there_is_nothing_to_doubt():
    pair = np.ones((5, 3, 2)) * [1.0, 1.0]
    assert interval([pair], log_ratio).p == 1.0
    assert interval([pair + np.array([0.5, 0.0])], log_ratio).p < 1e-9
