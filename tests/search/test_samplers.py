"""The local sampler: every trial is the best one so far with a few changes."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from reproducer.search.samplers import LocalSampler

SPACE = {
    **{f"sample_{place}": IntDistribution(0, 999) for place in range(10)},
    "alpha1": FloatDistribution(0.0, 1.0),
    "alpha2": FloatDistribution(0.0, 1.0),
    "second": CategoricalDistribution([0.0, 1e6, "only"]),
    "scale": CategoricalDistribution([1e-4]),
    "steps": IntDistribution(1, 9),
}


def value(params):
    """How many samples are low, and how near the weights are to a point."""
    far = sum(params[f"sample_{place}"] / 999 for place in range(10))
    return (
        far
        + abs(params["alpha1"] - 0.3)
        + abs(params["alpha2"] - 0.9)
        + (params["second"] != 1e6)
        + abs(params["steps"] - 5) / 9
    )


def run(seed, trials, make=LocalSampler):
    study = optuna.create_study()
    for number in range(trials):
        study.sampler = make(seed=seed * 1000 + number)
        trial = study.ask(SPACE)
        study.tell(trial, value(trial.params))
    return study


@pytest.mark.parametrize("seed", range(2))
def test_a_trial_is_the_best_so_far_with_a_few_changes(seed):
    trials = run(seed, 60).trials
    changes = []
    for number in range(1, len(trials)):
        best = min(trials[:number], key=lambda trial: (trial.value, trial.number))
        changed = [name for name in SPACE if trials[number].params[name] != best.params[name]]
        assert "scale" not in changed and all(
            distribution._contains(distribution.to_internal_repr(trials[number].params[name]))
            for name, distribution in SPACE.items()
        )
        changes.append(len(changed))
    assert max(changes) < len(SPACE) and sum(changes) / len(changes) < 4
    assert changes.count(0) <= 0.05 * len(changes)  # a weight kept at its bound


def test_at_equal_trials_it_is_better_than_random_search():
    for seed in range(2):
        assert run(seed, 60).best_value < run(seed, 60, optuna.samplers.RandomSampler).best_value


def test_a_whole_number_with_an_order_moves_to_one_nearby():
    space = {"steps": IntDistribution(0, 1000), "sample_0": IntDistribution(0, 1000)}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({"steps": 500, "sample_0": 500})
    study.tell(study.ask(space), 0.0)
    moved = {name: [] for name in space}
    for seed in range(100):
        study.sampler = LocalSampler(seed)
        for name, value in (trial := study.ask(space)).params.items():
            moved[name] += [abs(value - 500)] if value != 500 else []
        study.tell(trial, 1.0)
    mean = {name: sum(far) / len(far) for name, far in moved.items()}
    assert all(len(far) > 25 for far in moved.values())
    assert 120 < mean["steps"] < 200 < 220 < mean["sample_0"] < 280  # 1000 · 0.2 · sqrt(2/π), and 1000 / 4
