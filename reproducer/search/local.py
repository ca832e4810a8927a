"""A sampler that changes a little of the best trial so far.

Ten passages out of thousands are too many bare indices for a surrogate to model within a hundred trials, while most of
what makes a set of samples good stays when one passage of it is exchanged. A trial keeps the best trial's point except
for a few passages, some of the metric, or both; what stays of the samples has its statistics already. The first trials
of a search are random (`SearchSettings.start`): what begins at a poor point stays near it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

DATA, METRIC = 0.75, 0.5  # how often a trial changes samples, and the metric; one of them it changes always
MORE = 0.4  # how often one more of them is changed
STEP = 0.2  # standard deviation of a change of a weight, as a share of its range


class LocalSampler(BaseSampler):
    """An evolution strategy with one parent, the best complete trial of the study.

    Integers count as indices without an order: a changed one is drawn anew from all.
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
        data = [name for name in free if isinstance(search_space[name], IntDistribution)]
        metric = [name for name in free if name not in data]
        chosen = [names for names, often in ((data, DATA), (metric, METRIC)) if names and self._random.random() < often]
        for names in chosen or [data or metric]:
            for name in self._some(names):
                point[name] = self._changed(point[name], search_space[name])
        return point

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._first.sample_independent(study, trial, param_name, param_distribution)

    def _some(self, names: list[str]) -> list[str]:
        """One of the names at least, each further one with the same small probability."""
        count = min(int(self._random.geometric(1 - MORE)), len(names))
        return [names[place] for place in self._random.permutation(len(names))[:count]]

    def _changed(self, value: Any, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, IntDistribution):
            while (drawn := int(self._random.integers(distribution.low, distribution.high + 1))) == value:
                pass
            return drawn
        if isinstance(distribution, FloatDistribution):
            low, high = distribution.low, distribution.high
            moved = value + STEP * (high - low) * self._random.standard_normal()
            return float(np.clip(moved, low, high))
        assert isinstance(distribution, CategoricalDistribution)
        others = [choice for choice in distribution.choices if choice != value]
        return others[int(self._random.integers(len(others)))]


def _best(study: optuna.Study) -> FrozenTrial | None:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)
