"""The joint space of a search: calibration samples x the parameters of the searched method."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reproducer.methods.registry import Method
from reproducer.methods.space import Choice, Dimension, Float, Scalar, Space, middle
from reproducer.pruning.statistics import Statistic
from reproducer.search.samples import SampleSpace

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

COMBINATIONS = 1000  # of values that are looked through for the statistics that trials will need


@dataclass(frozen=True)
class JointSpace:
    """What trials search: the calibration samples, and the method's own space.

    Attributes:
        draw: the samples that the baselines use, as pool indices.
    """

    method: Method
    own: Space
    samples: SampleSpace
    draw: tuple[int, ...]

    def suggest(self, trial: BaseTrial) -> tuple[tuple[int, ...], dict[str, Scalar]]:
        """Let the trial's sampler choose samples, as pool indices, and parameters of the method."""
        samples = self.samples.suggest(trial)
        chosen = {name: _suggest(trial, name, dimension) for name, dimension in self.own.dimensions().items()}
        return samples, {**self.own.fixed(), **chosen}

    def embed(self, baseline: str) -> dict[str, Any] | None:
        """The trial parameters at which the space holds a baseline with the draw; None if it does not."""
        point, samples = self.own.points().get(baseline), self.samples.embed(self.draw)
        return None if point is None or samples is None else {**samples, **point}


def default_parameters(own: Space) -> dict[str, Scalar]:
    """The method's parameters at the space's default."""
    return {**own.fixed(), **own.default()}


def varies(own: Space) -> bool:
    """Whether any parameter is searched."""
    return any(
        len(dimension.values) > 1 if isinstance(dimension, Choice) else dimension.low < dimension.high
        for dimension in own.dimensions().values()
    )


def described(own: Space) -> dict[str, Any]:
    """The space as facts, by parameter: `{low, high}`, a list of values, or the value that is set."""
    ranges = {
        name: list(dimension.values) if isinstance(dimension, Choice) else vars(dimension)
        for name, dimension in own.dimensions().items()
    }
    return {**own.fixed(), **ranges}


def needs(method: Method, own: Space) -> set[Statistic]:
    """Statistics that the trials of a method need, by its choices, with numbers in the middle of their ranges."""
    return {statistic for parameters in _combinations(own) for statistic in method.make(parameters).needs}


def _combinations(own: Space) -> Iterator[dict[str, Scalar]]:
    dimensions = own.dimensions()
    values = [dim.values if isinstance(dim, Choice) else (middle(dim),) for dim in dimensions.values()]
    for chosen in itertools.islice(itertools.product(*values), COMBINATIONS):
        parameters = {**own.fixed(), **dict(zip(dimensions, chosen, strict=True))}
        if not own.void(parameters):
            yield parameters


def _suggest(trial: BaseTrial, name: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(name, list(dimension.values))
    if isinstance(dimension, Float):
        return trial.suggest_float(name, dimension.low, dimension.high)
    return trial.suggest_int(name, dimension.low, dimension.high)
