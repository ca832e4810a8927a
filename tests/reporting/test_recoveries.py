"""What a recovery tells apart, against paired tests and simulations."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from reproducer.reporting.bootstrap import LEVEL, POWER, of_error
from reproducer.reporting.recoveries import differences_of, exploratory, resolutions
from tests.reporting.claimed import BASELINES, run
from tests.reporting.reading import markdown, tables

RIGHT = {"dense": 0.7, **BASELINES, "AdaPruner": 0.6}


def accuracy(results):
    (block,) = resolutions(results)
    return next(one for one in block if one.measure == "accuracy")


def values(results, label: str) -> list[float]:
    """By seed the average accuracy in points."""
    rows = sorted((row for row in results.rows if row.label == label), key=lambda row: row.seed)
    return [100 * row.metrics["average_acc"] for row in rows]


def test_of_two_methods_it_is_the_paired_t_test():
    results = run({"dense": 0.7, "LLM-Pruner-E2": 0.55, "AdaPruner": 0.56}, recovery="lora")
    one = accuracy(results)
    ours, theirs = (values(results, label) for label in ("AdaPruner", "LLM-Pruner-E2"))
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    error = np.std(differences, ddof=1) / math.sqrt(5)
    assert one.smallest == pytest.approx(of_error(0.0, float(error), 4).detectable)
    assert one.spread == pytest.approx(abs(np.mean(differences)))
    assert (one.pairs, one.told) == (1, int(ttest_rel(ours, theirs).pvalue < LEVEL))
    assert (one.methods, one.seeds) == (2, (0, 1, 2, 3, 4))


def test_what_is_left_over_is_that_of_a_least_squares_fit():
    results = run(RIGHT, recovery="lora", spread=0.03)
    y = np.array([values(results, label) for label in RIGHT if label != "dense"])
    methods, seeds = y.shape
    design = np.array([[*np.eye(methods)[m], *np.eye(seeds)[s]] for m in range(methods) for s in range(seeds)])
    fit = design @ np.linalg.lstsq(design, y.ravel(), rcond=None)[0]
    degrees = (methods - 1) * (seeds - 1)
    variance = ((y.ravel() - fit) ** 2).sum() / degrees
    expected = of_error(0.0, math.sqrt(2 * variance / seeds), degrees).detectable
    assert accuracy(results).smallest == pytest.approx(expected)


def test_an_effect_of_the_smallest_size_is_found_as_often_as_said():
    """Of methods by seeds with a spread of 1, and seeds that differ by 5: four of five repetitions."""
    draw, methods, seeds = np.random.default_rng(0), 4, 3
    effect = of_error(0.0, math.sqrt(2 / seeds), (methods - 1) * (seeds - 1)).detectable
    repeats, seen = 1000, 0
    for _ in range(repeats):
        y = draw.standard_normal((methods, seeds)) + 5 * draw.standard_normal((1, seeds))
        y[0] += effect
        seen += differences_of(y)[0].p < LEVEL  # the first two methods
    assert abs(seen / repeats - POWER) < 3 * math.sqrt(POWER * (1 - POWER) / repeats) + 0.02


def test_rows_that_nothing_tells_apart_are_exploratory():
    same = dict.fromkeys(RIGHT, 0.5)
    results = run(same, recovery="lora", seeds=range(3), spread=0.02)
    (block,) = resolutions(results)
    assert exploratory(block)
    assert "**Exploratory:** this run’s recovery tells no two rows apart of 20%, w/ LoRA" in markdown(results)
    apart = run(RIGHT, recovery="lora", seeds=range(3))
    (block,) = resolutions(apart)
    assert not exploratory(block) and "Exploratory" not in markdown(apart)
    (table,) = tables(apart, "What the recovery can tell apart")
    assert [line["By"] for line in table] == ["mean perplexity (%)", "average accuracy (points)"]


def test_of_one_seed_nothing_is_known():
    (block,) = resolutions(run(RIGHT, recovery="lora", seeds=[0]))
    assert exploratory(block) and all(one.smallest is None and one.told == 0 for one in block)
    assert resolutions(run(RIGHT)) == [], "untuned rows are no recovery's"
    assert resolutions(run({"dense": 0.7, "AdaPruner": 0.6}, recovery="lora")) == []
