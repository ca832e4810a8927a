"""AdaPruner's solution space: which calibration samples, and which importance metric (Kong et al. 2025, Eq. 5).

The ablations are spaces too. Table 2: `w/o I1` and `w/o I2` fix the metric at the first and the second `taylor` order,
`w/o D` has the data of `random`. Table 8: the data of `ten-spaces` and of `score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from reproducer.errors import UserError
from reproducer.search.encoding import Encoding, Given, Indices

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

# The baselines whose metric is a point of the space, provided that the space offers these values.
EMBEDDED: dict[str, dict[str, Any]] = {
    "vector": {"alpha1": 1.0, "alpha2": 0.0, "coarse_second": 0.0},
    "llm-pruner-e1": {"alpha1": 0.0, "alpha2": 1.0, "fine_second": 0.0},
    "llm-pruner-e2": {"alpha1": 0.0, "alpha2": 1.0, "fine_second": "only"},
    "llm-pruner-mix": {"alpha1": 0.0, "alpha2": 1.0, "fine_second": 1.0},
}
TAYLOR = {"first": "llm-pruner-e1", "second": "llm-pruner-e2"}


@dataclass(frozen=True)
class Candidate:
    """A point of the space: indices of pool passages, and the parameters of the `adapruner` metric."""

    samples: tuple[int, ...]
    parameters: dict[str, Any]


def is_ablated(data: str, taylor: str | None) -> bool:
    """Whether a part of AdaPruner's space is taken away: then a baseline outside is no result of the search.

    Else w/o I1 (Table 2) could return second-order LLM-Pruner, and w/ 10 space D (Table 8) a random draw.
    """
    return data != "search" or taylor is not None


@dataclass(frozen=True)
class Space:
    """The joint space of calibration data and importance metric.

    Attributes:
        pool: passages to choose from.
        samples: how many are chosen.
        fixed: the draw that the baselines use.
        data: `search`, each sample from the whole pool; `random`, the draw `fixed` (w/o D); `ten-spaces`, the pool in
            as many contiguous parts as there are samples, one sample from each (w/ 10 space D); `score`, the samples
            that are best alone (w/ score D), which the search finds out first.
        alpha_max: α₁ and α₂ lie in [0, alpha_max], not both 0.
        coarse_second, fine_second: values of a and b; 0 is first order alone, "only" second order alone.
        coarse_scale, fine_scale: values of c and f.
        taylor: fixes the metric: LLM-Pruner's of the first or the second order alone. None: it is searched.
        encoding: how parameters stand for samples; None: as bare indices.
    """

    pool: int
    samples: int
    fixed: tuple[int, ...]
    data: Literal["search", "random", "ten-spaces", "score"] = "search"
    alpha_max: float = 1.0
    coarse_second: Sequence[float | str] = (0.0, 1e5, 1e6, 1e7, "only")
    fine_second: Sequence[float | str] = (0.0, 1e5, 1e6, 1e7, "only")
    coarse_scale: Sequence[float] = (1e-2, 1e-3)
    fine_scale: Sequence[float] = (1e-4,)
    taylor: Literal["first", "second"] | None = None
    encoding: Encoding | None = None

    def suggest(self, trial: BaseTrial) -> Candidate:
        """Let the trial's sampler choose a point."""
        samples = self.coded.suggest(trial)
        if self.taylor is not None:
            return Candidate(samples, {**self._first_factors(), **EMBEDDED[TAYLOR[self.taylor]]})
        parameters = {
            "alpha1": trial.suggest_float("alpha1", 0.0, self.alpha_max),
            "alpha2": trial.suggest_float("alpha2", 0.0, self.alpha_max),
            **{name: trial.suggest_categorical(name, values) for name, values in self.factors.items()},
        }
        return Candidate(samples, parameters)

    @property
    def ablated(self) -> bool:
        return is_ablated(self.data, self.taylor)

    @property
    def coded(self) -> Encoding:
        """The data subspace."""
        if self.encoding is not None:
            return self.encoding
        return Given(self.fixed) if self.data in ("random", "score") else Indices(self.parts())

    @property
    def factors(self) -> dict[str, list[Any]]:
        """The alignment factors and their values."""
        return {
            "coarse_second": list(self.coarse_second),
            "fine_second": list(self.fine_second),
            "coarse_scale": list(self.coarse_scale),
            "fine_scale": list(self.fine_scale),
        }

    def parts(self, offered: Sequence[int] | None = None) -> tuple[tuple[int, ...], ...]:
        """The passages that each sample is chosen from: of all, or of those offered."""
        passages = range(self.pool) if offered is None else offered
        if self.data != "ten-spaces":
            return (tuple(passages),) * self.samples
        ends = [place * self.pool // self.samples for place in range(self.samples + 1)]
        return tuple(
            tuple(passage for passage in passages if ends[place] <= passage < ends[place + 1])
            for place in range(self.samples)
        )

    def metric(self, method: str) -> dict[str, Any]:
        """The metric parameters of a baseline, the first offered value where the space does not have its own."""
        point = EMBEDDED[method]
        weights = {name: min(point[name], self.alpha_max) for name in ("alpha1", "alpha2")}
        return weights | {
            name: point[name] if point.get(name) in values else values[0] for name, values in self.factors.items()
        }

    def _first_factors(self) -> dict[str, Any]:
        return {name: values[0] for name, values in self.factors.items()}

    def embed(self, method: str) -> dict[str, Any] | None:
        """The trial parameters at which the space holds a baseline with the baselines' samples; None if it does not."""
        point, samples = EMBEDDED.get(method), self.coded.embed(self.fixed)
        if point is None or samples is None:
            return None
        if self.taylor is not None:
            return samples if method == TAYLOR[self.taylor] else None
        metric = self.metric(method)
        missing = any(metric[name] != value for name, value in point.items() if name in self.factors)
        return None if missing else {**samples, **metric}

    def __post_init__(self) -> None:
        for name, values in self.factors.items():
            if not values:
                raise UserError(f"the search space offers no value of {name}")
        if self.samples > self.pool:
            raise UserError(f"{self.samples} calibration samples are asked for; the pool has {self.pool} passages")
