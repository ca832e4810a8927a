"""How sure a comparison over seeds and items is: a bootstrap over the seeds and one over the items.

Two things vary. Another seed draws other samples, and searches and tunes anew; other items would ask other questions.
The standard error by seeds is that over resamples of the seeds, all items kept; the one by items that over resamples
of the items, the same ones for every seed and for both sides, all seeds kept. Each has a half width of its own, of a
Student's t with as many degrees of freedom as there are seeds, or items, less one; the interval's half width is the
root of the sum of their squares (Howe 1974; Zou and Donner 2008, square-and-add). So a few seeds do not blow up what
many items have settled. What seeds and items add together, not each alone, is in both errors: intervals are too wide
rather than too narrow.
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
SMALLEST_TAIL = 1e-100  # far smaller ones scipy does not invert for every number of degrees of freedom

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


Source = tuple[float, int]
"""What makes a value unsure: a standard error, and its degrees of freedom; 0 stand for a normal distribution."""


def interval(pairs: Sequence[Array], statistic: Statistic, threshold: float = 0.0, draws: int = DRAWS) -> Interval:
    """Of a statistic of paired scores.

    Args:
        pairs: one array [seeds, items, 2] a column, of as many seeds each. With one seed alone the items' variance is
            all that is known, and the interval holds for that one pruned model.
        statistic: of the columns' means.
    """
    value = float(statistic(np.stack([pair.mean(axis=(0, 1)) for pair in pairs])))
    seeds, items = len(pairs[0]), min((pair.shape[1] for pair in pairs if pair.shape[1] > 1), default=1)
    resamples = [(over_seeds(pairs, draws), seeds), (over_items(pairs, draws), items)]
    # resampling n things shows (n - 1) / n of their variance
    sources = [(float(statistic(of).std()) * math.sqrt(n / (n - 1)), n - 1) for of, n in resamples if n > 1]
    return of_errors(value, sources, threshold)


def of_errors(value: float, sources: Sequence[Source], threshold: float = 0.0) -> Interval:
    """Of a value that several sources make unsure, whose half widths are added as squares."""
    away = value - threshold
    error = math.hypot(*(error for error, _ in sources))
    half = _half(sources, LEVEL / 2)
    return Interval(
        value=value,
        low=value - half,
        high=value + half,
        threshold=threshold,
        p=_p(sources, abs(away)),
        distance=away / error if error else math.copysign(math.inf, away) if away else 0.0,
        detectable=half + _half(sources, 1 - POWER),
    )


def _half(sources: Sequence[Source], tail: float) -> float:
    """Half the width of the interval that leaves `tail` on either side."""
    from scipy.stats import t as student

    return math.hypot(*(float(student.isf(tail, degrees or math.inf)) * error for error, degrees in sources))


def _p(sources: Sequence[Source], away: float) -> float:
    """Twice the tail of the interval that reaches just so far; 0 where it is below what a float tells apart from 0."""
    from scipy.optimize import brentq

    if away == 0 or _half(sources, SMALLEST_TAIL) <= away:
        return 1.0 if away == 0 else 0.0
    log_tail = brentq(lambda log: _half(sources, math.exp(log)) - away, math.log(SMALLEST_TAIL), math.log(0.5))
    return 2 * math.exp(log_tail)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values after Holm's correction: the k-th smallest of m times m - k, never falling; None stays out of it."""
    ranked = sorted((p, index) for index, p in enumerate(values) if p is not None)
    corrected: dict[int, float] = {}
    reached = 0.0
    for rank, (p, index) in enumerate(ranked):
        reached = corrected[index] = max(reached, min(1.0, (len(ranked) - rank) * p))
    return [corrected.get(index) for index in range(len(values))]


def over_seeds(pairs: Sequence[Array], draws: int = DRAWS) -> Array:
    """The columns' means in each resample of the seeds: [draws, columns, 2]."""
    shares = _shares(-1, len(pairs[0]), draws)
    return np.stack([shares @ pair.mean(axis=1) for pair in pairs], axis=1)


def over_items(pairs: Sequence[Array], draws: int = DRAWS) -> Array:
    """The columns' means in each resample of their items: [draws, columns, 2]."""
    means = [_shares(column, pair.shape[1], draws) @ pair.mean(axis=0) for column, pair in enumerate(pairs)]
    return np.stack(means, axis=1)


@lru_cache(maxsize=16)
def _shares(stream: int, count: int, draws: int) -> Array:
    """How large a share of each resample each of `count` things has: [draws, count].

    The seeds (stream -1) are the same for all columns; each column draws its own items. RandomState, not a Generator:
    its stream is the same in every version of numpy, so that a report can be made again.
    """
    drawn = np.random.RandomState(SEED + stream).randint(count, size=(draws, count))
    flat = (drawn + count * np.arange(draws)[:, None]).ravel()
    return np.bincount(flat, minlength=draws * count).reshape(draws, count) / count
