"""The model of what candidates are worth, against the same model written with weights, and where they are known."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from reproducer.search import samplers
from reproducer.search.surrogate import EXPLAINED, features, predict

SPACE = {
    "sample_0": IntDistribution(0, 5),
    "sample_1": IntDistribution(0, 5),
    "weight": FloatDistribution(1.0, 3.0),
    "order": CategoricalDistribution([0.0, "only"]),
    "fixed": CategoricalDistribution([1e-4]),
}


def test_passages_are_counted_and_parameters_placed_in_their_range():
    points = [
        {"sample_0": 4, "sample_1": 2, "weight": 1.0, "order": "only", "fixed": 1e-4, "other": 7},
        {"sample_0": 2, "sample_1": 2, "weight": 2.5, "order": 0.0, "fixed": 1e-4},
    ]
    assert features(points, SPACE, alike=True).tolist() == [[1, 1, 0, 0, 1], [0, 2, 0.75, 1, 0]]
    # Where each sample is from a part of its own, a 2 of the one is another passage than a 2 of the other.
    assert features(points, SPACE, alike=False).tolist() == [[1, 1, 0, 0, 0, 1], [0, 1, 1, 0.75, 1, 0]]


def problem(seed, candidates=30, size=12, new=7):
    random = np.random.default_rng(seed)
    known, others = random.normal(size=(candidates, size)), random.normal(size=(new, size))
    values = known @ random.normal(size=size) + random.normal(size=candidates)
    return known, 5 + values.clip(-3, 3), others


@pytest.mark.parametrize("seed", range(2))
def test_it_is_bayesian_linear_regression(seed):
    known, values, new = problem(seed)
    middle, mean = known.mean(0), values.mean()
    far = known - middle
    prior = EXPLAINED * values.var() / np.square(far).sum(1).mean()
    errors = (1 - EXPLAINED) * values.var()
    precision = far.T @ far / errors + np.eye(far.shape[1]) / prior
    weights = np.linalg.solve(precision, far.T @ (values - mean) / errors)
    assert np.allclose(predict(known, values, new), mean + (new - middle) @ weights, rtol=0, atol=1e-10)
    spread = (new - middle) @ np.linalg.inv(precision) @ (new - middle).T
    random, count = np.random.default_rng(seed), 4000
    draws = np.array([predict(known, values, new, random) for _ in range(count)])
    # Five standard errors of a mean and of a variance.
    assert np.all(abs(draws.mean(0) - predict(known, values, new)) < 5 * np.sqrt(spread.diagonal() / count))
    assert np.all(abs(draws.var(0) / spread.diagonal() - 1) < 5 * np.sqrt(2 / count))
    halved = predict(known, values, new, np.random.default_rng(seed), boldness=0.5)
    assert np.allclose(halved - predict(known, values, new), (draws[0] - predict(known, values, new)) / 2)


def test_equal_values_say_nothing_and_one_that_is_far_off_does_not_rule():
    known, values, new = problem(1)
    assert predict(known, np.full(len(known), 3.0), new).tolist() == [3.0] * len(new)
    spoilt = values.copy()
    spoilt[values.argmax()] += 1e6
    assert np.corrcoef(predict(known, values, new), predict(known, spoilt, new))[0, 1] > 0.9


def test_stopped_trials_count_as_they_are_estimated_and_others_not():
    study = optuna.create_study()
    for value, estimate, state in ((3.0, None, None), (None, 5.0, "PRUNED"), (None, None, "PRUNED"), (0.0, None, None)):
        trial = study.ask(SPACE)
        if estimate is not None:
            trial.set_user_attr("estimate", estimate)
        study.tell(trial, value, state=optuna.trial.TrialState[state] if state else None)
    assert [value for _, value in samplers.estimates(study, SPACE)] == [3.0, 5.0]
    assert samplers.estimates(study, {**SPACE, "another": FloatDistribution(0, 1)}) == []
