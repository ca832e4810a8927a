"""How a trial's parameters stand for a set of calibration samples.

`indices`: bare indices into the pool (the paper). `ordered`: indices into the pool sorted by a feature, so that
neighbours are alike; in which order a trial names its samples makes no difference. `features`: no indices, but
weights of a few features; the passages that score highest are the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


class Encoding(Protocol):
    """The data subspace."""

    @property
    def names(self) -> list[str]:
        """Names of the parameters."""
        ...

    def suggest(self, trial: BaseTrial) -> tuple[int, ...]:
        """Let the trial's sampler choose samples, as pool indices."""
        ...

    def embed(self, samples: Sequence[int]) -> dict[str, Any] | None:
        """Parameters that stand for these samples; None if none do."""
        ...


@dataclass(frozen=True)
class Given:
    """No choice: these samples."""

    samples: tuple[int, ...]

    @property
    def names(self) -> list[str]:
        return []

    def suggest(self, trial: BaseTrial) -> tuple[int, ...]:
        return self.samples

    def embed(self, samples: Sequence[int]) -> dict[str, Any] | None:
        return {} if sorted(samples) == sorted(self.samples) else None


@dataclass(frozen=True)
class Indices:
    """Each sample an index into its part of the pool.

    Attributes:
        parts: pool passages that each sample is chosen from, as the index counts them.
        ordered: the trial's order of samples makes no difference.
    """

    parts: tuple[tuple[int, ...], ...]
    ordered: bool = False

    @property
    def names(self) -> list[str]:
        return [f"sample_{place}" for place in range(len(self.parts))]

    def suggest(self, trial: BaseTrial) -> tuple[int, ...]:
        chosen = [
            part[trial.suggest_int(name, 0, len(part) - 1)] for name, part in zip(self.names, self.parts, strict=True)
        ]
        return tuple(sorted(chosen) if self.ordered else chosen)

    def embed(self, samples: Sequence[int]) -> dict[str, Any] | None:
        if self.ordered or len(set(self.parts)) > 1:  # as the parts follow each other in the pool
            samples = sorted(samples)
        if any(sample not in part for sample, part in zip(samples, self.parts, strict=True)):
            return None
        places = [part.index(sample) for sample, part in zip(samples, self.parts, strict=True)]
        one_part = len(set(self.parts)) == 1
        return dict(zip(self.names, sorted(places) if self.ordered and one_part else places, strict=True))


@dataclass(frozen=True)
class Ranked:
    """The passages with the highest weighted sum of features, so many of each group.

    Attributes:
        groups: passages, and how many of them are chosen.
        features: {passage: standardised features}.
    """

    groups: tuple[tuple[tuple[int, ...], int], ...]
    features: Mapping[int, Sequence[float]]

    @property
    def names(self) -> list[str]:
        return [f"weight_{place}" for place in range(len(next(iter(self.features.values()))))]

    def suggest(self, trial: BaseTrial) -> tuple[int, ...]:
        weights = [trial.suggest_float(name, -1.0, 1.0) for name in self.names]

        def score(passage: int) -> float:
            return sum(weight * value for weight, value in zip(weights, self.features[passage], strict=True))

        chosen = [
            passage
            for passages, count in self.groups
            for passage in sorted(passages, key=lambda passage: (-score(passage), passage))[:count]
        ]
        return tuple(sorted(chosen))

    def embed(self, samples: Sequence[int]) -> dict[str, Any] | None:
        return None  # a random draw is next to never a ranking
