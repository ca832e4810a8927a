"""The search objective against what is reported."""

import math
import random

import numpy as np
import pytest

from reproducer.reporting.bootstrap import LEVEL
from reproducer.reporting.correlations import FEWEST, correlations, interval, spearman
from tests.reporting.claimed import BASELINES, run
from tests.reporting.fake import change
from tests.reporting.reading import tables

RIGHT = {"dense": 0.7, **BASELINES, "AdaPruner": 0.69}


def with_objectives(results, of):
    rows = [
        row if row.method == "dense" else change(row, search_objective=of(row, place))
        for place, row in enumerate(results.rows)
    ]
    return change(results, rows=rows)


def test_the_interval_is_bonett_and_wrights():
    """The example of Bonett's own package statpsych, `ci.spear`."""
    y = [21, 4, 9, 12, 35, 18, 10, 22, 24, 1, 6, 8, 13, 16, 19]
    x = [67, 28, 30, 28, 52, 40, 25, 37, 44, 10, 14, 20, 28, 40, 51]
    rho = spearman([*zip(x, y, strict=True)])
    assert rho == pytest.approx(0.8699639, abs=1e-7)
    assert interval(rho, 15) == pytest.approx((0.5840951, 0.9638297), abs=1e-7)
    assert interval(-rho, 15) == pytest.approx((-0.9638297, -0.5840951), abs=1e-7)


def test_a_row_under_another_label_counts_once():
    results = with_objectives(run(RIGHT), lambda row, place: float(place))
    again = [change(row, label=f"{row.label} again") for row in results.rows if row.label == "AdaPruner"]
    assert correlations(change(results, rows=results.rows + again)) == correlations(results)


@pytest.mark.parametrize("count", [FEWEST, 6, 8, 12])
def test_a_perfect_order_of_few_leaves_others_possible(count):
    low, high = interval(1.0, count)
    assert low < 1 == high and interval(-1.0, count) == (-1.0, -low)
    assert low > 0, "it is significant where chance gives it in less than 1 of 20"
    assert interval(1.0, count + 1)[0] > low


def test_fewer_methods_are_never_significant():
    assert 2 / math.factorial(FEWEST) < LEVEL < 2 / math.factorial(FEWEST - 1), "the same or the reverse order"
    assert interval(1.0, FEWEST - 1)[0] < 0


@pytest.mark.parametrize("count", [FEWEST, 9])
@pytest.mark.parametrize("of_values", [0.0, 0.6, 0.9])
def test_the_interval_holds_the_coefficient_as_often_as_it_says(count, of_values):
    draw = np.random.RandomState(count)
    x, noise = draw.randn(2, 400, count)
    y = of_values * x + math.sqrt(1 - of_values**2) * noise
    true = 6 / math.pi * math.asin(of_values / 2)  # of normal variables
    ends = [interval(spearman([*zip(*pair, strict=True)]), count) for pair in zip(x, y, strict=True)]
    held = sum(low <= true <= high for low, high in ends) / len(ends)
    assert held > 1 - LEVEL - 3 * math.sqrt(LEVEL * (1 - LEVEL) / len(ends))


def test_an_objective_that_orders_the_rows_agrees_with_each_measure():
    results = with_objectives(run(RIGHT), lambda row, _: row.metrics["wikitext2_ppl"] + row.metrics["ptb_ppl"])
    found = {one.measure: one for one in correlations(results)}
    assert set(found) == {"perplexity", "accuracy"}  # no unseen text, no margins
    perplexity, accuracy = found["perplexity"], found["accuracy"]
    assert (perplexity.rho, perplexity.rows, perplexity.methods) == (1.0, 30, 6)
    assert 0 < perplexity.low < 0.8 and perplexity.high == 1.0
    assert accuracy.rho == accuracy.low == -1.0 and -0.8 < accuracy.high < 0


def test_an_objective_of_chance_leaves_it_open():
    draw = random.Random(0)
    results = with_objectives(run(RIGHT), lambda row, _: draw.random())
    for one in correlations(results):
        assert one.low < 0 < one.high


def test_more_rows_of_the_same_methods_say_no_more():
    """Seeds that differ in nothing: the coefficient and its interval are those of the methods."""
    few, many = (
        with_objectives(run(RIGHT, seeds=range(seeds), spread=0), lambda row, _: RIGHT[row.label]) for seeds in (1, 8)
    )
    for one, more in zip(correlations(few), correlations(many), strict=True):
        assert (one.rows, more.rows, one.methods, more.methods) == (6, 48, 6, 6)
        assert (one.low, one.high) == interval(one.rho, 6)
        if one.rho == more.rho:
            assert one.low == more.low
    four = {label: RIGHT[label] for label in ("dense", *[*BASELINES][:3], "AdaPruner")}
    assert correlations(with_objectives(run(four), lambda row, place: float(place))) == []


def test_a_method_is_the_mean_over_its_rows():
    results = with_objectives(run(RIGHT), lambda row, place: 10 * RIGHT[row.label] + place % 3)
    (perplexity, _) = correlations(results)
    rows = [row for row in results.rows if row.method != "dense"]
    labels = sorted({row.label for row in rows})
    means = [
        [np.mean([of(row) for row in rows if row.label == label]) for label in labels]
        for of in (
            lambda row: row.search_objective,
            lambda row: (row.metrics["wikitext2_ppl"] + row.metrics["ptb_ppl"]) / 2,
        )
    ]
    ranks = [np.argsort(np.argsort(side)) for side in means]
    count = len(labels)
    expected = 1 - 6 * np.sum((ranks[0] - ranks[1]) ** 2) / (count**3 - count)
    assert perplexity.rho == pytest.approx(expected)


def test_the_report_says_whether_it_agrees():
    results = with_objectives(run(RIGHT), lambda row, _: row.metrics["wikitext2_ppl"] + row.metrics["ptb_ppl"])
    ((perplexity, accuracy),) = tables(results, "Does the search objective tell what a model is worth?")
    assert (perplexity["With"], perplexity["Correlation"], perplexity["Agrees"]) == (
        "mean perplexity", "1.00 [0.63, 1.00]", "yes",
    )  # fmt: skip
    assert accuracy["With"] == "average accuracy" and accuracy["Agrees"] == "yes"
    against = with_objectives(run(RIGHT), lambda row, _: -row.metrics["wikitext2_ppl"])
    ((perplexity, _),) = tables(against, "Does the search objective tell what a model is worth?")
    assert perplexity["Agrees"] == "no, the reverse" and perplexity["Correlation"].startswith("−1.00")
