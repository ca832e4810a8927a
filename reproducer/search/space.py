"""AdaPruner's solution space: which calibration samples, and which importance metric (Kong et al. 2025, Eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from reproducer.errors import UserError

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

# The baselines whose metric is a point of the space, provided that the space offers these values.
EMBEDDED: dict[str, dict[str, Any]] = {
    "vector": {"alpha1": 1.0, "alpha2": 0.0, "coarse_second": 0.0},
    "llm-pruner-e1": {"alpha1": 0.0, "alpha2": 1.0, "fine_second": 0.0},
    "llm-pruner-e2": {"alpha1": 0.0, "alpha2": 1.0, "fine_second": "only"},
    "llm-pruner-mix": {"alpha1": 0.0, "alpha2": 1.0, "fine_second": 1.0},
}


@dataclass(frozen=True)
class Candidate:
    """A point of the space: indices of pool passages, and the parameters of the `adapruner` metric."""

    samples: tuple[int, ...]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Space:
    """The joint space of calibration data and importance metric.

    Attributes:
        pool: passages to choose from.
        samples: how many are chosen, each from the whole pool.
        data: `search`, or `random` for the fixed draw `fixed` (the ablation without D).
        fixed: the draw that the baselines use.
        alpha_max: α₁ and α₂ lie in [0, alpha_max], not both 0.
        coarse_second, fine_second: values of a and b; 0 is first order alone, "only" second order alone.
        coarse_scale, fine_scale: values of c and f.
    """

    pool: int
    samples: int
    fixed: tuple[int, ...]
    data: Literal["search", "random"] = "search"
    alpha_max: float = 1.0
    coarse_second: Sequence[float | str] = (0.0, 1e5, 1e6, 1e7, "only")
    fine_second: Sequence[float | str] = (0.0, 1e5, 1e6, 1e7, "only")
    coarse_scale: Sequence[float] = (1e-2, 1e-3)
    fine_scale: Sequence[float] = (1e-4,)

    def suggest(self, trial: BaseTrial) -> Candidate:
        """Let the trial's sampler choose a point."""
        samples = self.fixed
        if self.data == "search":
            samples = tuple(trial.suggest_int(f"sample_{place}", 0, self.pool - 1) for place in range(self.samples))
        parameters = {
            "alpha1": trial.suggest_float("alpha1", 0.0, self.alpha_max),
            "alpha2": trial.suggest_float("alpha2", 0.0, self.alpha_max),
            **{name: trial.suggest_categorical(name, values) for name, values in self.factors.items()},
        }
        return Candidate(samples, parameters)

    @property
    def factors(self) -> dict[str, list[Any]]:
        """The alignment factors and their values."""
        return {
            "coarse_second": list(self.coarse_second),
            "fine_second": list(self.fine_second),
            "coarse_scale": list(self.coarse_scale),
            "fine_scale": list(self.fine_scale),
        }

    def embed(self, method: str) -> dict[str, Any] | None:
        """The trial parameters at which the space holds a baseline with the baselines' samples; None if it does not."""
        point = EMBEDDED.get(method)
        if point is None or any(point.get(name, values[0]) not in values for name, values in self.factors.items()):
            return None
        weights = {name: min(point[name], self.alpha_max) for name in ("alpha1", "alpha2")}
        factors = {name: point.get(name, values[0]) for name, values in self.factors.items()}
        samples = {f"sample_{place}": index for place, index in enumerate(self.fixed)} if self.data == "search" else {}
        return {**samples, **weights, **factors}

    def __post_init__(self) -> None:
        for name, values in self.factors.items():
            if not values:
                raise UserError(f"the search space offers no value of {name}")
        if self.samples > self.pool:
            raise UserError(f"{self.samples} calibration samples are asked for; the pool has {self.pool} passages")
