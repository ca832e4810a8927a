"""The sections of a spec: one frozen pydantic model each, unknown keys refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from reproducer.spec.values import (
    Count,
    Layers,
    Listed,
    NonEmpty,
    Positive,
    Ratio,
    SecondOrder,
    Text,
    Tokens,
    mistake,
)


class Section(BaseModel):
    """Frozen; unknown keys, values of another type, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Named(Section):
    """An entry of a list for which its bare name may stand."""

    name: Text

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


class RecoverySpec(Named):
    """Fine-tuning after pruning. `steps` stops early; `examples` takes the first of the data set."""

    name: Literal["none", "lora"]
    dataset: Text = "alpaca"
    rank: Count = 8
    alpha: Positive = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    targets: NonEmpty[Text] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    learning_rate: Positive = 1e-4
    epochs: Count = 2
    batch: Count = 128
    micro_batch: Count = 4
    cutoff: Tokens = 256
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    steps: Count | None = None
    examples: Count | None = None

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.batch % self.micro_batch:
            raise mistake(f"micro_batch {self.micro_batch} does not divide batch {self.batch}; set both to fit")
        return self


EXCLUSIVE = {"ratio": "structure_ratio", "structure_ratio": "ratio"}
"""Two keys of which an override gives one: it then takes the place of the other."""


class PruneSpec(Section):
    """How much is pruned, and where. Exactly one of `ratio` and `structure_ratio` is a list, the other None."""

    ratio: NonEmpty[Ratio] | None = None
    structure_ratio: NonEmpty[Ratio] | None = None
    layers: Layers | None = None
    scope: Literal["local", "global"] = "local"
    heads: Literal["auto", "local", "pooled"] = "auto"
    round_to: Count = 1

    @model_validator(mode="before")
    @classmethod
    def _default_ratio(cls, data: Any) -> Any:
        given = [key for key in EXCLUSIVE if isinstance(data, dict) and key in data]
        if given and all(data[key] is None for key in given):
            empty = mistake("is empty; give it a fraction such as 0.20, or leave the key out")
            raise ValidationError.from_exception_data("", [{"type": empty, "loc": (given[0],), "input": None}])
        return data if given or not isinstance(data, dict) else {**data, "ratio": [0.20]}

    @field_validator("structure_ratio")
    @classmethod
    def _one_of_two(cls, value: list[float] | None, info: ValidationInfo) -> list[float] | None:
        if value is not None and info.data.get("ratio") is not None:
            raise mistake(
                "cannot stand beside 'ratio'; keep 'ratio' (of all parameters) or 'structure_ratio' (of each layer)"
            )
        return value


class CalibrationSpec(Section):
    """The texts that importance is estimated on: `samples` passages of `length` tokens out of the pool."""

    dataset: Text = "bookcorpus"
    samples: Count = 10
    length: Tokens = 128
    pool: Count | None = None

    @field_validator("pool")
    @classmethod
    def _enough(cls, pool: int | None, info: ValidationInfo) -> int | None:
        samples = info.data.get("samples", 0)
        # alone, an override does not know the number that it will meet
        if pool is not None and pool < samples and not (info.context or {}).get("override"):
            raise mistake(f"a pool of {pool} passages cannot give {samples} samples; make it {samples} or more")
        return pool


class SpaceSpec(Section):
    """AdaPruner's metric space: the values among which the search chooses each factor; or `taylor`, a fixed order."""

    alpha_max: Positive = 1.0
    coarse_second: NonEmpty[SecondOrder] = [0.0, 1e5, 1e6, 1e7, "only"]
    fine_second: NonEmpty[SecondOrder] = [0.0, 1e5, 1e6, 1e7, "only"]
    coarse_scale: NonEmpty[Positive] = [1e-2, 1e-3]
    fine_scale: NonEmpty[Positive] = [1e-4]
    taylor: Literal["first", "second"] | None = None


class TransferSpec(Section):
    """Where a configuration comes from that is used here without a search: what is left out is as in the row itself."""

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


class SearchSpec(Section):
    """AdaPruner's search. `texts` None: the data sets of `evaluate.perplexity`.

    `data`: samples searched over the whole pool, the baselines' `random` draw, one sample from each of `ten-spaces`
    (as many as samples), or those with the best single-sample `score` among `scored` passages. `order`: data and metric
    jointly, or one after the other with half of the trials each. `sampler`, `encoding` and `stop` None: as `mode` has
    them. `stop` ends hopeless trials on a first slice of the texts. `start`: trials in front of the sampler `local`'s
    own, drawn at random. `workers` processes share one study. `transfer` uses another row's search.
    """

    trials: Count = 150
    sampler: Literal["local", "tpe", "random", "gp", "cmaes"] | None = None
    mode: Literal["default", "paper"] = "default"
    order: Literal["joint", "sequential"] = "joint"
    data: Literal["search", "random", "ten-spaces", "score"] = "search"
    encoding: Literal["indices", "ordered", "features"] | None = None
    stop: bool | None = None
    start: Annotated[int, Field(ge=0)] | None = None
    texts: NonEmpty[Text] | None = None
    split: Literal["search", "report"] = "search"
    windows: Count = 64
    space: SpaceSpec = Field(default_factory=SpaceSpec)
    baselines: Listed[Text] = ["magnitude", "vector", "llm-pruner-e1", "llm-pruner-e2"]
    scored: Count = 256
    workers: Count = 1
    transfer: TransferSpec | None = None


class EfficiencySpec(Section):
    """Sizes, latency and memory of passes over `batch` sentences of `length` tokens."""

    length: Tokens = 64
    batch: Count = 1
    repeats: Count = 20
    warmup: Annotated[int, Field(ge=0)] = 3


class EvaluateSpec(Section):
    """What is measured. `limit` items a task and `windows` windows a text; None: all. `efficiency` None: not at all."""

    perplexity: Listed[Text] = ["wikitext2", "ptb"]
    tasks: Listed[Text] = []
    limit: Count | None = None
    seq_len: Tokens = 128
    windows: Count | None = None
    generate: Listed[Text] = []
    efficiency: EfficiencySpec | None = None
