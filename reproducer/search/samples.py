"""The data part of a search's space: which calibration samples a trial takes.

With `data: search` or `ten-spaces` each sample is a parameter of the trial, a bare index into the passages that it may
be chosen from. With `random` or `score` nothing is chosen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reproducer.errors import UserError
from reproducer.files import write_json
from reproducer.search.settings import SearchSettings

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

SAMPLE = "sample_"  # in front of the names of parameters that are indices without an order

Progress = Callable[[float, float, str], None]
Parts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class SampleSpace:
    """The samples of a trial, as pool indices: each chosen from a part of the pool, or the same in every trial.

    Attributes:
        parts: for each sample, the pool indices that it is chosen from; none where they are fixed.
        fixed: the samples of every trial, where there are no parts.
    """

    parts: Parts = ()
    fixed: tuple[int, ...] = ()

    @property
    def passages(self) -> list[int]:
        """All pool indices that may be chosen."""
        return sorted({passage for part in self.parts for passage in part})

    @property
    def names(self) -> list[str]:
        """The parameters of a trial that are samples: each an index into its part."""
        return [f"{SAMPLE}{number}" for number in range(len(self.parts))]

    def suggest(self, trial: BaseTrial) -> tuple[int, ...]:
        """Let the trial's sampler choose samples, as pool indices."""
        chosen = zip(self.names, self.parts, strict=True)
        return self.fixed or tuple(part[trial.suggest_int(name, 0, len(part) - 1)] for name, part in chosen)

    def embed(self, samples: Sequence[int]) -> dict[str, Any] | None:
        """The parameters that stand for these samples; None if none do."""
        if not self.parts:
            return {} if sorted(samples) == sorted(self.fixed) else None
        if len(set(self.parts)) > 1:  # the parts follow each other in the pool
            samples = sorted(samples)
        if any(sample not in part for sample, part in zip(samples, self.parts, strict=True)):
            return None
        return {name: part.index(sample) for name, sample, part in zip(self.names, samples, self.parts, strict=True)}


def sample_space(
    settings: SearchSettings,
    draw: Sequence[int],
    pool: Tensor,
    score: Callable[[int], float],
    directory: Path,
    progress: Progress,
) -> SampleSpace:
    """The samples that the settings let trials choose. Scores of single passages are kept in `directory`.

    Args:
        draw: the baselines' samples, as pool indices; as many are chosen.
        pool: LongTensor [passages, length].
        score: the objective with a passage as the only sample.

    Raises:
        UserError: more samples than passages to choose from, or too few passages with a finite objective.
    """
    passages, samples = len(pool), len(draw)
    if samples > passages:
        raise UserError(f"{samples} calibration samples are asked for; the pool has {passages} passages")
    if settings.data == "random":
        return SampleSpace(fixed=tuple(draw))
    if settings.data == "score":
        path = directory / "scores.json"
        return SampleSpace(fixed=best_alone(passages, samples, settings.scored, score, path, progress))
    contiguous = settings.data == "ten-spaces"
    offered: Sequence[int] = range(passages)
    if settings.offered:
        offered = sorted({*rarest(pool, settings.offered, samples if contiguous else 1), *draw})
    return SampleSpace(parts(offered, samples, contiguous, passages))


def parts(offered: Sequence[int], samples: int, contiguous: bool, pool: int) -> Parts:
    """The passages that each sample is chosen from: all that are offered, or those in a part of the pool of its own."""
    if not contiguous:
        return (tuple(offered),) * samples
    ends = [number * pool // samples for number in range(samples + 1)]
    return tuple(
        tuple(passage for passage in offered if ends[number] <= passage < ends[number + 1]) for number in range(samples)
    )


def best_alone(
    pool: int, samples: int, limit: int, score: Callable[[int], float], path: Path, progress: Progress
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
            measured = score(index)
            scores[str(index)] = measured if math.isfinite(measured) else None
            write_json(path, {"pool": pool, "scored": len(passages), "scores": scores})
    finite = {index: value for index in passages if (value := scores[str(index)]) is not None}
    if len(finite) < samples:
        raise UserError(f"only {len(finite)} of {len(passages)} scored passages gave a finite objective")
    return tuple(sorted(sorted(finite, key=lambda index: (finite[index], index))[:samples]))


def spread(pool: int, count: int) -> list[int]:
    """`count` of `pool` indices at even distances, all where there are not so many."""
    return [(2 * number + 1) * pool // (2 * count) for number in range(count)] if count < pool else list(range(pool))


def rarest(pool: Tensor, count: int, groups: int = 1) -> list[int]:
    """`count` passages whose tokens are rarest in the pool: by the mean of −log of a token's share of all tokens.

    Samples with rare words prune better. Of 360 sets of ten passages of fiction the objective's Spearman correlation
    with this mean was −0.31 [−0.40, −0.21] (SmolLM2-135M; random sets, and TPE's).

    Args:
        pool: LongTensor [passages, length].
        groups: contiguous parts of the pool, from each of which as many are taken.
    """
    shares = torch.bincount(pool.flatten()).double() / pool.numel()
    surprisal = (-shares.log())[pool].mean(1).tolist()
    return [
        passage
        for part in dict.fromkeys(parts(range(len(pool)), groups, groups > 1, len(pool)))
        for passage in sorted(part, key=lambda passage: (-surprisal[passage], passage))[: -(-count // groups)]
    ]
