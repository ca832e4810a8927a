"""How sure a comparison over seeds is: a hierarchical bootstrap over seeds and the items within them.

What varies is the method: another seed draws other samples, and searches and tunes anew. So seeds are resampled first,
then the items that all of them were measured on, the same items for every seed and for both sides. The standard
deviation over resamples is the standard error; the interval takes Student's t for as many degrees of freedom as there
are seeds less one, as of five seeds a normal distribution knows too little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05  # the paper's
POWER = 0.8
DRAWS = 1000
SEED = 2025

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""From means [..., columns, 2] of a row and of what it is held against to values [...]."""


@dataclass(frozen=True)
class Interval:
    """A value with its uncertainty.

    Attributes:
        low, high: the interval of a confidence of 1 - `LEVEL`.
        p: two-sided, of the value against `threshold`.
        distance: of the value from the threshold, in standard errors.
        detectable: the distance from the threshold that would have been found with a probability of `POWER`.
    """

    value: float
    low: float
    high: float
    threshold: float
    p: float
    distance: float
    detectable: float


def interval(pairs: Sequence[Array], statistic: Statistic, threshold: float = 0.0, draws: int = DRAWS) -> Interval:
    """Of a statistic of paired scores.

    Args:
        pairs: one array [seeds, items, 2] a column, of as many seeds each. With one seed alone the items' variance is
            all that is known, and the interval holds for that one pruned model.
        statistic: of the columns' means.
    """
    value = float(statistic(np.stack([pair.mean(axis=(0, 1)) for pair in pairs])))
    seeds = len(pairs[0])
    error = float(statistic(resampled(pairs, draws)).std())
    if seeds > 1:  # resampling n seeds shows (n - 1) / n of their variance
        error *= math.sqrt(seeds / (seeds - 1))
    return of_error(value, error, seeds - 1, threshold)


def of_error(value: float, error: float, degrees: int, threshold: float = 0.0) -> Interval:
    """By Student's t; 0 `degrees` of freedom stand for a normal distribution."""
    from scipy.stats import t as student

    student = student(degrees or math.inf)
    half = float(student.ppf(1 - LEVEL / 2)) * error
    away = value - threshold
    distance = away / error if error else math.copysign(math.inf, away) if away else 0.0
    return Interval(
        value=value,
        low=value - half,
        high=value + half,
        threshold=threshold,
        p=2 * float(student.sf(abs(distance))),
        distance=distance,
        detectable=half + float(student.ppf(POWER)) * error,
    )


def resampled(pairs: Sequence[Array], draws: int = DRAWS) -> Array:
    """The columns' means in each resample: [draws, columns, 2]."""
    seeds = _shares(-1, len(pairs[0]), draws)
    means = np.empty((draws, len(pairs), 2))
    for place, pair in enumerate(pairs):
        items = _shares(place, pair.shape[1], draws)
        for side in (0, 1):
            means[:, place, side] = ((seeds @ pair[:, :, side]) * items).sum(axis=1)
    return means


@lru_cache(maxsize=16)
def _shares(stream: int, count: int, draws: int) -> Array:
    """How large a share of each resample each of `count` things has: [draws, count].

    The seeds (stream -1) are the same for all columns; each column draws its own items. RandomState, not a Generator:
    its stream is the same in every version of numpy, so that a report can be made again.
    """
    drawn = np.random.RandomState(SEED + stream).randint(count, size=(draws, count))
    flat = (drawn + count * np.arange(draws)[:, None]).ravel()
    return np.bincount(flat, minlength=draws * count).reshape(draws, count) / count
