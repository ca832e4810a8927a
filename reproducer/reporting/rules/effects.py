"""Effects: statistics of means [..., columns, 2], a row beside what it is held against, and their scales."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from reproducer.reporting.bootstrap import Array, Interval

TIE = 9  # decimals to which two means are compared: coarser than errors of rounding, finer than any real difference


def points(means: Array) -> Array:
    """The difference of the columns' mean accuracy, in points."""
    return 100 * (means[..., 0] - means[..., 1]).mean(axis=-1)


def log_ratio(means: Array) -> Array:
    """The logarithm of the ratio of perplexities, of several texts of their geometric means; scores are losses."""
    return (means[..., 0] - means[..., 1]).mean(axis=-1)


def share(means: Array) -> Array:
    """The columns' mean as per cent of the other side's."""
    return 100 * means[..., 0].mean(axis=-1) / means[..., 1].mean(axis=-1)


def share_above(means: Array) -> Array:
    """On how many per cent of the columns it is above; equal ones count half."""
    # Equal means are sums in whatever order a processor adds: without rounding, chance would say which is above.
    return 50 * (1 + np.sign(np.round(means[..., 0] - means[..., 1], TIE))).mean(axis=-1)


def percent_change(value: float) -> float:
    """A logarithm of a ratio as per cent above 1."""
    return 100 * math.expm1(value)


def mapped(of: Interval, to: Callable[[float], float], lower: bool = False) -> Interval:
    """An interval on another scale, `to` rising; `lower`: what is detectable lies below the threshold."""
    away = of.threshold - of.detectable if lower else of.threshold + of.detectable
    values = {name: to(getattr(of, name)) for name in ("value", "low", "high", "threshold")}
    return replace(of, **values, detectable=abs(to(away) - values["threshold"]))
