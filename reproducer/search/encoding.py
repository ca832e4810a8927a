"""How a trial's parameters stand for a set of calibration samples.

With `data` of `random` or `score` nothing is chosen; else the setting `encoding` says what the parameters are.
`indices`: bare indices into the pool (the paper). `ordered`: indices into the pool sorted by a feature, so that
neighbours are alike; in which order a trial names its samples makes no difference. `features`: no indices, but weights
of a few features; the passages that score highest are the samples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from reproducer.errors import UserError
from reproducer.search.record import write
from reproducer.search.settings import SearchSettings

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

    from reproducer.search.objective import Objective

SAMPLE = "sample_"  # in front of the names of parameters that are indices without an order
FEATURED = 1024  # passages that features are computed of: more would cost as much as many trials
NEGLIGIBLE = 1e-6  # of the leading component's size: what is smaller is rounding
COMPONENTS = 3  # principal components of the passages' states, beside their loss

Progress = Callable[[float, float, str], None]
Parts = tuple[tuple[int, ...], ...]


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

    parts: Parts
    ordered: bool = False

    @property
    def passages(self) -> list[int]:
        """All that may be chosen."""
        return sorted({passage for part in self.parts for passage in part})

    @property
    def names(self) -> list[str]:
        return [f"{SAMPLE}{place}" for place in range(len(self.parts))]

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


def encode(
    settings: SearchSettings,
    draw: Sequence[int],
    objective: Objective,
    alone: Callable[[int], float],
    directory: Path,
    progress: Progress,
) -> Encoding:
    """The encoding that the settings ask for. What it took to find out is kept in `directory` and not done again.

    Args:
        draw: the baselines' samples; as many are chosen.
        alone: the objective of a passage as the only sample.

    Raises:
        UserError: more samples than passages to choose from, or too few passages with a finite objective.
    """
    pool, samples = len(objective.pool), len(draw)
    if samples > pool:
        raise UserError(f"{samples} calibration samples are asked for; the pool has {pool} passages")
    if settings.data == "random":
        return Given(tuple(draw))
    if settings.data == "score":
        return Given(best_alone(pool, samples, settings.scored, alone, directory / "scores.json", progress))
    contiguous = settings.data == "ten-spaces"
    few: Sequence[int] = ()
    if settings.offered:
        few = sorted({*rarest(objective.pool, settings.offered, samples if contiguous else 1), *draw})
    if settings.encoding == "indices":
        return Indices(parts(few or range(pool), samples, contiguous, pool))
    offered = list(few) or sorted({*spread(pool, FEATURED), *draw})
    ranked = settings.encoding == "features"
    rows = _features(offered, ranked, objective, directory / "features.json", progress)
    if not ranked:
        offered.sort(key=lambda passage: (rows[passage][0], passage))
        return Indices(parts(offered, samples, contiguous, pool), ordered=True)
    groups = [(part, 1) for part in parts(offered, samples, True, pool)] if contiguous else [(tuple(offered), samples)]
    return Ranked(tuple(groups), rows)


def parts(offered: Sequence[int], samples: int, contiguous: bool, pool: int | None = None) -> Parts:
    """The passages that each sample is chosen from: all that are offered, or those in a part of the pool of its own."""
    if not contiguous:
        return (tuple(offered),) * samples
    size = pool or len(offered)
    ends = [place * size // samples for place in range(samples + 1)]
    return tuple(
        tuple(passage for passage in offered if ends[place] <= passage < ends[place + 1]) for place in range(samples)
    )


def best_alone(
    pool: int, samples: int, limit: int, alone: Callable[[int], float], path: Path, progress: Progress
) -> tuple[int, ...]:
    """The samples with the lowest objective when each is the only one (Table 8, w/ score D).

    Writes to `path` how many passages of the pool were scored, and the objective of each, null if not finite.
    """
    if limit < samples:
        raise UserError(f"{samples} samples cannot be the best of {limit} scored passages", "score more of them")
    passages = spread(pool, limit)
    scores: dict[str, float | None] = json.loads(path.read_text())["scores"] if path.exists() else {}
    for done, index in enumerate(passages):
        progress(done, len(passages), "passages scored alone")
        if str(index) not in scores:
            value = alone(index)
            scores[str(index)] = value if math.isfinite(value) else None
            write(path, {"pool": pool, "scored": len(passages), "scores": scores})
    known = {index: score for index in passages if (score := scores[str(index)]) is not None}
    if len(known) < samples:
        raise UserError(f"only {len(known)} of {len(passages)} scored passages gave a finite objective")
    return tuple(sorted(sorted(known, key=lambda index: (known[index], index))[:samples]))


def spread(pool: int, count: int) -> list[int]:
    """`count` of `pool` indices at even distances, all where there are not so many."""
    return [(2 * place + 1) * pool // (2 * count) for place in range(count)] if count < pool else list(range(pool))


def rarest(pool: Tensor, count: int, places: int = 1) -> list[int]:
    """`count` passages whose tokens are rarest in the pool: by the mean of −log of a token's share of all tokens.

    Samples with rare words prune better. Of 360 sets of ten passages of fiction the objective's Spearman correlation
    with this mean was −0.31 [−0.40, −0.21] (SmolLM2-135M; random sets, and TPE's).

    Args:
        pool: LongTensor [passages, length].
        places: contiguous parts of the pool, from each of which as many are taken.
    """
    shares = torch.bincount(pool.flatten()).double() / pool.numel()
    surprisal = (-shares.log())[pool].mean(1).tolist()
    return [
        passage
        for part in dict.fromkeys(parts(range(len(pool)), places, places > 1))
        for passage in sorted(part, key=lambda one: (-surprisal[one], one))[: -(-count // places)]
    ]


def _features(
    offered: Sequence[int], ranked: bool, objective: Objective, path: Path, progress: Progress
) -> dict[int, list[float]]:
    """{passage: features}: the first principal component of its state; if `ranked`, its loss and all components."""
    if path.exists():
        rows = json.loads(path.read_text())
    else:
        shown: Callable[[int, int], None] = lambda done, total: progress(done, total, "passages described")  # noqa: E731
        states, losses = objective.describe(offered, losses=ranked, progress=shown)
        features = principal_components(states, COMPONENTS if ranked else 1)
        if losses is not None:
            features = torch.cat([losses[:, None].double(), features], dim=1)
        rows = standardised(features).tolist()
        write(path, rows)
    return dict(zip(offered, rows, strict=True))


def principal_components(rows: Tensor, count: int) -> Tensor:
    """The rows [n, width] along their `count` leading principal axes, float64 [n, as many of them as rows vary along].

    Of the two directions of an axis, the one along which its largest entry is positive.
    """
    centred = rows.double() - rows.double().mean(0)
    left, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))[:, 0]
    return (left * sizes * largest.sign())[:, sizes > NEGLIGIBLE * sizes[0]][:, :count]


def standardised(columns: Tensor) -> Tensor:
    """Columns of mean 0 and standard deviation 1; one that does not vary is 0."""
    centred = columns - columns.mean(0)
    deviation = centred.square().mean(0).sqrt()
    return torch.where(deviation > 0, centred / deviation, 0.0)
