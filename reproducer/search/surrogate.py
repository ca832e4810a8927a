"""What measured candidates say of others: a Bayesian linear model of the objective's logarithm.

A set of samples does well mostly because each of its passages does, whichever the others are. With a few dozen passages
to choose from, each is in many candidates, and what it is worth shows long before the best set has been tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from reproducer.search.samples import SAMPLE

Point = Mapping[str, Any]
Array = NDArray[np.float64]

EXPLAINED = 0.5  # the share of the variance that the model expects to explain before any measurement
FENCE = 1.5  # Tukey's (1977): values further above the quartiles, in their distance, count as if they lay there


def features(points: Sequence[Point], space: Mapping[str, BaseDistribution], alike: bool) -> Array:
    """Points as rows [points, features]: how often each passage is among the samples, and the other parameters.

    A number is scaled to its range, from 0 to 1; a choice is one feature for each of its values.

    Args:
        space: the parameters' distributions; points may hold others, too.
        alike: whether an index stands for the same passage whichever sample it is of.
    """
    samples = [name for name in space if name.startswith(SAMPLE)]
    passages: dict[Any, int] = {}
    for point in points:
        for name in samples:
            passages.setdefault(point[name] if alike else (name, point[name]), len(passages))
    counts = np.zeros((len(points), len(passages)))
    for row, point in enumerate(points):
        for name in samples:
            counts[row, passages[point[name] if alike else (name, point[name])]] += 1
    columns = [counts]
    for name, distribution in space.items():
        if name in samples or distribution.single():
            continue
        values = [point[name] for point in points]
        if isinstance(distribution, CategoricalDistribution):
            columns.append(np.array([[value == choice for choice in distribution.choices] for value in values], float))
        else:
            assert isinstance(distribution, FloatDistribution | IntDistribution)
            low, high = distribution.low, distribution.high
            columns.append(np.array([[(value - low) / (high - low)] for value in values]))
    return np.hstack(columns)


def predict(
    known: Array, values: Array, new: Array, random: np.random.Generator | None = None, boldness: float = 1.0
) -> Array:
    """What the model expects of `new` rows, [new].

    The prior has weights of one variance and independent errors, which share the values' variance (`EXPLAINED`). With
    `random` it is a draw of the posterior instead of its mean (Thompson 1933), by Matheron's rule.

    Args:
        known: features [candidates, features] of those that were measured, and their `values` [candidates].
        new: features of others, [new, features].
        boldness: what the draw's distance from the mean is multiplied by.
    """
    quarter, three = np.quantile(values, [0.25, 0.75])
    values = np.minimum(values, three + FENCE * (three - quarter))
    mean, variance = values.mean(), values.var()
    if variance == 0:
        return np.full(len(new), mean)
    centre = known.mean(0)
    known, new = known - centre, new - centre
    size = np.square(known).sum(1).mean()
    of_weights, of_errors = EXPLAINED * variance / max(size, 1e-12), (1 - EXPLAINED) * variance
    across = of_weights * new @ known.T
    of_known = of_weights * known @ known.T + of_errors * np.eye(len(known))
    expected = mean + across @ np.linalg.solve(of_known, values - mean)
    if random is None:
        return expected
    weights = random.normal(0, of_weights**0.5, known.shape[1])
    drawn = known @ weights + random.normal(0, of_errors**0.5, len(known))
    return expected + boldness * (new @ weights - across @ np.linalg.solve(of_known, drawn))
