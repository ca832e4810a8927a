"""The sampler of one trial.

Optuna does not store a sampler's state. So every trial has a sampler of its own, seeded from the search's seed and the
trial's ordinal: with one process a resumed search makes the trials that an unbroken one makes. CMA-ES keeps its
distribution in the trials, and reads it from there.

The local sampler changes a little of the best trial so far. Ten passages out of thousands are too many bare indices for
a surrogate to model within a hundred trials, while most of what makes a set of samples good stays when one passage of
it is exchanged. A trial keeps the best trial's point except for a few passages, some of the parameters, or both; what
stays of the samples has its statistics already. The first trials of a search are random (`SearchSettings.start`): what
begins at a poor point stays near it.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    PartialFixedSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from reproducer.errors import UserError
from reproducer.search.encoding import SAMPLE
from reproducer.search.settings import SearchSettings

DATA, PARAMETERS = 0.75, 0.5  # how often a local trial changes samples, and parameters; one of them it changes always
MORE = 0.4  # how often one more of them is changed
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = _sampler(settings, trials, ordinal, seed)
        return PartialFixedSampler(dict(fixed), sampler) if fixed else sampler


def _sampler(settings: SearchSettings, trials: int, ordinal: int, seed: int) -> BaseSampler:
    startup = min(10, trials // 4)
    if settings.sampler == "random":
        return RandomSampler(seed=seed)
    if settings.sampler == "local":
        return RandomSampler(seed=seed) if ordinal < settings.start else LocalSampler(seed)
    if settings.sampler == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup)
    if settings.sampler == "cmaes":
        return _CmaEs(ordinal, seed, settings.stop)
    if settings.mode == "paper":
        return TPESampler(seed=seed, multivariate=False)
    return TPESampler(seed=seed, multivariate=True, group=False, n_startup_trials=startup)


class _CmaEs(CmaEsSampler):
    """CMA-ES over the numbers, univariate TPE over the categories that it does not know."""

    def __init__(self, ordinal: int, seed: int, stops: bool) -> None:
        if importlib.util.find_spec("cmaes") is None:
            raise UserError("the sampler cmaes needs the package `cmaes`", "pip install cmaes, or take another sampler")
        categories = TPESampler(seed=seed, multivariate=False)
        super().__init__(
            seed=seed,
            independent_sampler=categories,
            warn_independent_sampling=False,
            consider_pruned_trials=stops,
        )
        self._ordinal = ordinal

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        # It adds the trial's number to its seed, and an interrupted trial takes up a number.
        trial = copy.copy(trial)
        trial.number = self._ordinal
        return super().sample_relative(study, trial, search_space)


class LocalSampler(BaseSampler):
    """An evolution strategy with one parent, the best complete trial of the study.

    Samples are indices without an order: a changed one is drawn anew from all.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._first = RandomSampler(seed=seed)  # before anything is known

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        best = _best(study)
        return {} if best is None else dict(best.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        best = _best(study)
        if best is None or not search_space:
            return {}
        point = {name: best.params[name] for name in search_space}
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
        return [names[place] for place in self._random.permutation(len(names))[:count]]

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


def _best(study: optuna.Study) -> FrozenTrial | None:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)
