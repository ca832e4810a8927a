"""How to search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reproducer.errors import UserError

Sampler = Literal["local", "tpe", "random", "gp", "cmaes"]
Coding = Literal["indices", "ordered", "features"]

DEFAULT_SAMPLER: Sampler = "local"


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        trials: finished trials in all, the stopped ones and the baselines' among them.
        sampler: `local` (`reproducer.search.local`), `tpe`, `random`, `gp` (Optuna's Gaussian process) or `cmaes` (for
            α and the data; as it knows no categories, the alignment factors are left to TPE); None: by `mode`.
        mode: `paper` takes TPE, univariate as Optuna's default was in the paper's time, bare indices, and stops no
            trial; `default` takes `local`, and TPE, if asked for, multivariate.
        seed: of the baselines' samples and of the search.
        baselines: methods to score beside the search.
        order: `joint`; or `sequential` (Table 2, w/o unified): half of the trials search the data with the metric of
            LLM-Pruner-E2, the others the metric with the best data.
        encoding: how parameters stand for samples (`reproducer.search.encoding`); None: by `mode` and `sampler`.
        stop: give up hopeless trials on a first slice of the search texts; None: by `mode` and `sampler`.
        start: of `local` alone: trials at the head, baselines among them, before it changes the best of them; those
            that are no baselines are drawn at random. None: a quarter of `trials`.
        workers: processes that work on the study. With more than one, the trials depend on timing.
        scored: passages that the data of `score` are chosen from, evenly spread over the pool.
    """

    trials: int
    sampler: Sampler | None = None
    mode: Literal["default", "paper"] = "default"
    seed: int = 0
    baselines: Sequence[str] = ()
    order: Literal["joint", "sequential"] = "joint"
    encoding: Coding | None = None
    stop: bool | None = None
    start: int | None = None
    workers: int = 1
    scored: int = 256

    @property
    def sampling(self) -> Sampler:
        """The sampler in use."""
        return self.sampler or ("tpe" if self.mode == "paper" else DEFAULT_SAMPLER)

    @property
    def coding(self) -> Coding:
        """The encoding in use."""
        bare = self.mode == "paper" or self.sampling == "local"  # which exchanges passages, near or not
        return self.encoding or ("indices" if bare else "ordered")

    @property
    def stops(self) -> bool:
        """Whether hopeless trials are stopped."""
        if self.stop is None:
            return self.mode == "default" and self.sampling in ("local", "tpe", "random")
        return self.stop

    @property
    def starting(self) -> int:
        """Trials before the local ones; 0 for other samplers."""
        if self.sampling != "local":
            return 0
        return self.trials // 4 if self.start is None else self.start

    def __post_init__(self) -> None:
        if self.start and self.sampling != "local":
            raise UserError(f"`start` is of the sampler local, not of {self.sampling}", "leave it out")
        if self.stop and self.sampling == "gp":
            raise UserError(
                "the gp sampler learns nothing from stopped trials and would propose the like again",
                "leave out `stop`, or take another sampler",
            )
