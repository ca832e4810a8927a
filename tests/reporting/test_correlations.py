"""The search objective against what is reported."""

import random

import numpy as np
from scipy.stats import spearmanr

from reproducer.reporting.correlations import correlations, spearman
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


def test_the_coefficient_is_scipys():
    both = np.random.RandomState(0).randint(6, size=(30, 2)).astype(float)  # with ties
    times = np.random.RandomState(1).randint(3, size=(4, 30))
    expected = [spearmanr(*np.repeat(both, of, axis=0).T).statistic for of in times]
    np.testing.assert_allclose(spearman(both, times.astype(float)), expected)
    assert np.isnan(spearman(np.ones((5, 2)), np.ones((1, 5)))).all()


def test_an_objective_that_orders_the_rows_agrees_with_each_measure():
    results = with_objectives(run(RIGHT), lambda row, _: row.metrics["wikitext2_ppl"] + row.metrics["ptb_ppl"])
    found = {one.measure: one for one in correlations(results)}
    assert set(found) == {"perplexity", "accuracy"}  # no unseen text, no margins
    perplexity, accuracy = found["perplexity"], found["accuracy"]
    assert (perplexity.rho, perplexity.rows, perplexity.methods) == (1.0, 30, 6)
    assert (perplexity.low, perplexity.high) == (1.0, 1.0)
    assert accuracy.rho < -0.8 and accuracy.low <= accuracy.rho <= accuracy.high < 0
    assert correlations(results) == correlations(results)


def test_an_objective_of_chance_leaves_it_open():
    draw = random.Random(0)
    results = with_objectives(run(RIGHT), lambda row, _: draw.random())
    for one in correlations(results):
        assert one.low < 0 < one.high


def test_methods_are_resampled_whole():
    """Many rows of few methods tell less than the rows' number promises."""
    results = with_objectives(run(RIGHT, seeds=range(8)), lambda row, _: row.metrics["wikitext2_ppl"])
    few = {label: RIGHT[label] for label in ("dense", "Vector", "LLM-Pruner-E2", "AdaPruner")}
    assert correlations(with_objectives(run(few), lambda row, place: float(place))) == []
    assert all(one.methods == 6 and one.rows == 48 for one in correlations(results))


def test_the_report_says_whether_it_agrees():
    results = with_objectives(run(RIGHT), lambda row, _: row.metrics["wikitext2_ppl"] + row.metrics["ptb_ppl"])
    ((perplexity, accuracy),) = tables(results, "Does the search objective tell what a model is worth?")
    assert (perplexity["With"], perplexity["Correlation"], perplexity["Agrees"]) == (
        "mean perplexity", "1.00 [1.00, 1.00]", "yes",
    )  # fmt: skip
    assert accuracy["With"] == "average accuracy" and accuracy["Agrees"] == "yes"
    against = with_objectives(run(RIGHT), lambda row, _: -row.metrics["wikitext2_ppl"])
    ((perplexity, _),) = tables(against, "Does the search objective tell what a model is worth?")
    assert perplexity["Agrees"] == "no, the reverse" and perplexity["Correlation"].startswith("−1.00")
