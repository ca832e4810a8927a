"""The sampler of one trial.

Optuna does not store a sampler's state. So every trial has a sampler of its own, seeded from the search's seed and the
trial's ordinal: with one process a resumed search makes the trials that an unbroken one makes.

The local sampler changes a little of the best trial so far: most of what makes a set of samples good stays when one
passage of it is exchanged. A trial keeps the best trial's point except for a few passages, some of the parameters, or
both. Of many such changes it takes the one of which a linear model of all that was measured expects most (`surrogate`).
Ten passages out of thousands would be too many to model within a hundred trials; of the few that are offered
(`SearchSettings.offered`) the model learns what each is worth. The first trials of a search are random
(`SearchSettings.start`): what begins at a poor point stays near it, and the model knows nothing yet.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from reproducer.search.journal import best_of, finished
from reproducer.search.samples import SAMPLE
from reproducer.search.settings import SearchSettings
from reproducer.search.surrogate import features, predict

DATA, PARAMETERS = 0.75, 0.5  # how often a local trial changes samples, and parameters; one of them it changes always
MORE = 0.4  # how often one more of them is changed
CHANGES = 256  # of the best trial that the model chooses from
BOLDNESS = 0.5  # of the model's draws: few trials are left to make use of what a bold one would teach
STEP = 0.2  # standard deviation of a change of a number, as a share of its range


def make_sampler(
    settings: SearchSettings, seed: int, trials: int, ordinal: int, fixed: Mapping[str, Any]
) -> BaseSampler:
    """The sampler of trial `ordinal`.

    Args:
        seed: of the search.
        trials: trials of the study in all.
        fixed: parameters that the study does not search, and their values.
    """
    seed = (seed * 1_000_003 + ordinal) % 2**32
    sampler: BaseSampler = RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if settings.sampler == "local" and ordinal >= settings.start:
            sampler = LocalSampler(seed, alike=settings.data != "ten-spaces")
        elif settings.sampler == "tpe" and settings.mode == "paper":
            sampler = TPESampler(seed=seed, multivariate=False)
        elif settings.sampler == "tpe":
            startup = min(10, trials // 4)
            sampler = TPESampler(seed=seed, multivariate=True, group=False, n_startup_trials=startup)
        return PartialFixedSampler(dict(fixed), sampler) if fixed else sampler


class LocalSampler(BaseSampler):
    """An evolution strategy with one parent, the best complete trial of the study, and a model that chooses the child.

    Samples are indices without an order: a changed one is drawn anew from all.

    Args:
        alike: whether an index stands for the same passage whichever sample it is of.
    """

    def __init__(self, seed: int, alike: bool = True) -> None:
        self._alike = alike
        self._random = np.random.default_rng(seed)
        self._first = RandomSampler(seed=seed)  # before anything is known

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        best = best_of([study])
        return {} if best is None else dict(best.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        best = best_of([study])
        if best is None or not search_space:
            return {}
        changed = [self._change(best.params, search_space) for _ in range(CHANGES)]
        measured = estimates(study, search_space)
        if len(measured) < 2:
            return changed[0]
        points = [point for point, _ in measured]
        rows = features([*points, *changed], search_space, self._alike)
        known, new = rows[: len(points)], rows[len(points) :]
        expected = predict(known, np.log([value for _, value in measured]), new, self._random, BOLDNESS)
        return changed[int(expected.argmin())]

    def _change(self, params: Mapping[str, Any], search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """A point near this one."""
        point = {name: params[name] for name in search_space}
        free = [name for name, distribution in search_space.items() if not distribution.single()]
        data = [name for name in free if name.startswith(SAMPLE)]
        other = [name for name in free if name not in data]
        chosen = [
            names for names, often in ((data, DATA), (other, PARAMETERS)) if names and self._random.random() < often
        ]
        for names in chosen or [data or other]:
            for name in self._some(names):
                point[name] = self._changed(name, point[name], search_space[name])
        return point

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._first.sample_independent(study, trial, param_name, param_distribution)

    def _some(self, names: list[str]) -> list[str]:
        """One of the names at least, each further one with the same small probability."""
        count = min(int(self._random.geometric(1 - MORE)), len(names))
        return [names[index] for index in self._random.permutation(len(names))[:count]]

    def _changed(self, name: str, value: Any, distribution: BaseDistribution) -> Any:
        if name.startswith(SAMPLE):
            assert isinstance(distribution, IntDistribution)
            while (drawn := int(self._random.integers(distribution.low, distribution.high + 1))) == value:
                pass
            return drawn
        if isinstance(distribution, FloatDistribution):
            low, high = distribution.low, distribution.high
            moved = value + STEP * (high - low) * self._random.standard_normal()
            return float(np.clip(moved, low, high))
        if isinstance(distribution, IntDistribution):
            while (
                near := round(value + STEP * (distribution.high - distribution.low + 1) * self._random.normal())
            ) == value:
                pass
            return int(np.clip(near, distribution.low, distribution.high))
        assert isinstance(distribution, CategoricalDistribution)
        others = [choice for choice in distribution.choices if choice != value]
        return others[int(self._random.integers(len(others)))]


def estimates(study: optuna.Study, space: Mapping[str, BaseDistribution]) -> list[tuple[Mapping[str, Any], float]]:
    """Points of the study's trials and their objectives, of stopped ones as estimated (`Measurement.estimate`)."""
    measured = [
        (trial.params, trial.value if trial.state == TrialState.COMPLETE else trial.user_attrs.get("estimate"))
        for trial in finished(study)
    ]
    positive = [(point, value) for point, value in measured if value is not None and value > 0]
    return [(point, value) for point, value in positive if space.keys() <= point.keys()]
