"""The sampler of one trial.

Optuna does not store a sampler's state. So every trial has a sampler of its own, seeded from the search's seed and the
trial's ordinal: with one process a resumed search makes the trials that an unbroken one makes. CMA-ES keeps its
distribution in the trials, and reads it from there.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    PartialFixedSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial

from reproducer.errors import UserError
from reproducer.search.local import LocalSampler
from reproducer.search.settings import SearchSettings


def make_sampler(settings: SearchSettings, trials: int, ordinal: int, fixed: Mapping[str, Any]) -> BaseSampler:
    """The sampler of trial `ordinal`.

    Args:
        trials: trials of the study in all.
        fixed: parameters that the study does not search, and their values.
    """
    seed = (settings.seed * 1_000_003 + ordinal) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = _sampler(settings, trials, ordinal, seed)
        return PartialFixedSampler(dict(fixed), sampler) if fixed else sampler


def _sampler(settings: SearchSettings, trials: int, ordinal: int, seed: int) -> BaseSampler:
    startup = min(10, trials // 4)
    if settings.sampling == "random":
        return RandomSampler(seed=seed)
    if settings.sampling == "local":
        return RandomSampler(seed=seed) if ordinal < settings.starting else LocalSampler(seed)
    if settings.sampling == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup)
    if settings.sampling == "cmaes":
        return _CmaEs(ordinal, seed, settings.stops)
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
