"""How to search: a spec's section `search`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from reproducer.spec import Count, Listed, NonEmpty, Ratio, Section, Text, mistake

OFFERED = 32  # passages: each is in many trials, so that what it is worth shows
START = 10  # random trials at the most

Sampler = Literal["local", "tpe", "random"]


class TransferSpec(Section):
    """The row whose search is used here instead of a search: what is left out is as in the row itself."""

    model: Text | None = None
    ratio: Ratio | None = None
    structure_ratio: Ratio | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.ratio is not None and self.structure_ratio is not None:
            raise mistake("'ratio' and 'structure_ratio' exclude each other; keep one")
        if self.model is None and self.ratio is None and self.structure_ratio is None:
            raise mistake("says nothing; name the model, the ratio or the structure_ratio that was searched at")
        return self


def _decided() -> Any:
    """A default that `mode` and `sampler` decide; an explicit null is the same as none."""
    return Field(None, validate_default=True)


class SearchSettings(Section):
    """How to search. What `mode` decides is resolved: no field but `texts` and `transfer` is ever None.

    Attributes:
        trials: finished trials in all, the stopped ones and the baselines' among them.
        mode: `paper` takes TPE, univariate as Optuna's default was in the paper's time, and the method's space as it
            was published, stops no trial, and returns the best of its trials alone. `default` takes `local` (TPE, if
            asked for, is multivariate) and returns a baseline where that is better.
        sampler: `local` (`samplers.LocalSampler`), `tpe` or `random`.
        order: `joint`; or `sequential`: half of the trials search the samples with the parameters at the space's
            `default`, the others the parameters with the best samples.
        data: `search`, each sample from the whole pool; `random`, the draw that the baselines use; `ten-spaces`, the
            pool in as many contiguous parts as there are samples, one sample from each; `score`, the samples that are
            best alone, each of which is scored first.
        stop: let trials race: measured on more and more of the search texts, hopeless ones are given up.
        start: of `local` alone: trials at the head, baselines among them, before it changes the best of them; those
            that are no baselines are drawn at random. By default a quarter of `trials`, ten at most.
        offered: passages that samples are chosen from, those whose tokens are rarest in the pool (`samples.rarest`),
            and the baselines' draw; 0: the whole pool. They are the same for all seeds and cuts of the same layers,
            so that their statistics are taken once for all searches.
        texts: data sets whose mean perplexity is the objective; None: those that the report measures on.
        split: of the texts: one that the report does not measure on, or the report's own.
        windows: of each text, taken from its head.
        space: ranges of the searched method's own parameters, a section that belongs to the method.
        baselines: methods to score on the objective too.
        scored: passages that the data of `score` are chosen from, evenly spread over the pool.
        workers: processes that work on the study. With more than one, the trials depend on timing.
        transfer: takes the configuration of another row's search.
    """

    trials: Count = 150
    mode: Literal["default", "paper"] = "default"
    sampler: Sampler = _decided()
    order: Literal["joint", "sequential"] = "joint"
    data: Literal["search", "random", "ten-spaces", "score"] = "search"
    stop: bool = _decided()
    start: Annotated[int, Field(ge=0)] = _decided()
    offered: Annotated[int, Field(ge=0)] = _decided()
    texts: NonEmpty[Text] | None = None
    split: Literal["search", "report"] = "search"
    windows: Count = 64
    space: dict[str, Any] = Field(default_factory=dict)
    baselines: Listed[Text] = Field(["magnitude", "vector", "llm-pruner-e1", "llm-pruner-e2"])
    scored: Count = 256
    workers: Count = 1
    transfer: TransferSpec | None = None

    @field_validator("sampler", "stop", "start", "offered", mode="before")
    @classmethod
    def _resolved(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            return value
        paper, sampler = info.data.get("mode") == "paper", info.data.get("sampler")
        if info.field_name == "sampler":
            return "tpe" if paper else "local"
        if info.field_name == "stop":
            return not paper
        if info.field_name == "offered":
            return OFFERED if sampler == "local" else 0
        return min(info.data.get("trials", 0) // 4, START) if sampler == "local" else 0

    @field_validator("start")
    @classmethod
    def _of_local_alone(cls, start: int, info: ValidationInfo) -> int:
        sampler = info.data.get("sampler", "local")
        if start and sampler != "local":
            raise mistake(f"`start` is of the sampler local, not of {sampler}; leave it out")
        return start
