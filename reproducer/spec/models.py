"""The shape of a spec: one frozen pydantic model a section, unknown keys refused.

Names of models, methods, data sets and tasks are any text here; `reproducer.stages` knows which exist.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from reproducer.errors import nearest
from reproducer.spec.origins import Loc, Mistake, Node, Origin, SpecError, dotted
from reproducer.spec.values import (
    Count,
    Layers,
    Listed,
    NonEmpty,
    Parameter,
    Positive,
    Ratio,
    SecondOrder,
    Seed,
    Slug,
    Text,
    Tokens,
    line_error,
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


class ModelSpec(Named):
    """A model: a name of the catalogue, a hub id, or a local folder.

    With `base` it is a derivative of that model, made here: `base` fine-tuned as `tuned` says, the adapter merged into
    its weights. `name` is then free to choose. `prune` holds what it changes in the spec's `prune` (as written).
    """

    base: Text | None = None
    tuned: RecoverySpec | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    weights: Literal["given", "random"] = "given"  # random: only the architecture counts, nothing is downloaded
    label: Text | None = None
    prune: dict[str, Any] = {}

    @field_validator("prune")
    @classmethod
    def _valid_alone(cls, override: dict[str, Any]) -> dict[str, Any]:
        PruneSpec.model_validate(override, context={"override": True})
        return override

    @model_validator(mode="after")
    def _derived(self) -> Self:
        if (self.base is None) != (self.tuned is None):
            raise mistake("'base' and 'tuned' stand together: what to start from, and the fine-tuning that makes it")
        if self.tuned is not None and self.tuned.name == "none":
            raise mistake("'tuned: none' makes no other model; name the base itself")
        return self


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
    """AdaPruner's metric space: the values among which the search chooses each factor."""

    alpha_max: Positive = 1.0
    coarse_second: NonEmpty[SecondOrder] = [0.0, 1e5, 1e6, 1e7, "only"]
    fine_second: NonEmpty[SecondOrder] = [0.0, 1e5, 1e6, 1e7, "only"]
    coarse_scale: NonEmpty[Positive] = [1e-2, 1e-3]
    fine_scale: NonEmpty[Positive] = [1e-4]


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
    (as many as samples), or those with the best single-sample `score`. `order`: data and metric jointly, or one after
    the other with half of the trials each. `encoding` and `stop` None: as `mode` has them. `stop` ends hopeless trials
    on the first windows. `workers` processes share one study. `transfer` uses another row's search.
    """

    trials: Count = 150
    sampler: Literal["tpe", "random", "gp", "cmaes"] = "tpe"
    mode: Literal["default", "paper"] = "default"
    order: Literal["joint", "sequential"] = "joint"
    data: Literal["search", "random", "ten-spaces", "score"] = "search"
    encoding: Literal["indices", "ordered", "features"] | None = None
    stop: bool | None = None
    texts: NonEmpty[Text] | None = None
    split: Literal["search", "report"] = "search"
    windows: Count = 64
    space: SpaceSpec = Field(default_factory=SpaceSpec)
    baselines: Listed[Text] = ["magnitude", "vector", "llm-pruner-e1", "llm-pruner-e2"]
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


OVERRIDES: dict[str, type[Section]] = {"prune": PruneSpec, "calibration": CalibrationSpec, "search": SearchSpec}
"""The sections that a method may override."""


class MethodSpec(Named):
    """A pruning method, its own parameters, and what it changes in the spec's sections (as written)."""

    label: Text | None = None
    parameters: dict[str, Parameter] = {}
    prune: dict[str, Any] = {}
    calibration: dict[str, Any] = {}
    search: dict[str, Any] = {}

    @field_validator(*OVERRIDES)
    @classmethod
    def _valid_alone(cls, override: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        OVERRIDES[str(info.field_name)].model_validate(override, context={"override": True})
        return override

    def prune_for(self, spec: Spec, model: ModelSpec) -> PruneSpec:
        """The spec's `prune` with the model's and then this method's changes; their `ratio` or `structure_ratio` wins."""
        return _merged(_merged(spec.prune, model.prune), self.prune)

    def calibration_for(self, spec: Spec) -> CalibrationSpec:
        """The spec's `calibration` with this method's changes."""
        return _merged(spec.calibration, self.calibration)

    def search_for(self, spec: Spec) -> SearchSpec:
        """The spec's `search` with this method's changes."""
        return _merged(spec.search, self.search)


S = TypeVar("S", bound=Section)


def _merged(section: S, override: dict[str, Any]) -> S:
    return type(section).model_validate(_deep_merge(section.model_dump(), override)) if override else section


def _deep_merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = {key: value for key, value in base.items() if over.get(EXCLUSIVE.get(key, "")) is None}
    for key, value in over.items():
        inside = base.get(key)
        merged[key] = _deep_merge(inside, value) if isinstance(value, dict) and isinstance(inside, dict) else value
    return merged


class Spec(Section):
    """What to run and measure. Equal specs may come from different files: origins are no part of it."""

    name: Slug
    title: str = ""
    reproduces: Annotated[dict[Literal["table", "figure"], Count], Field(min_length=1)] | None = None
    models: NonEmpty[ModelSpec]
    methods: NonEmpty[MethodSpec]
    prune: PruneSpec = Field(default_factory=PruneSpec)
    calibration: CalibrationSpec = Field(default_factory=CalibrationSpec)
    search: SearchSpec = Field(default_factory=SearchSpec)
    recovery: NonEmpty[RecoverySpec] = Field(default_factory=lambda: [RecoverySpec(name="none")])
    evaluate: EvaluateSpec = Field(default_factory=EvaluateSpec)
    seeds: NonEmpty[Seed] = [0]

    _source: Node | None = PrivateAttr(None)
    _path: str | None = PrivateAttr(None)
    _profile: tuple[str, ...] = PrivateAttr(())
    _stands_for: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _overrides_fit(self) -> Self:
        """Each override was checked alone; here with the section that it changes."""
        errors: list[InitErrorDetails] = []
        places: list[tuple[str, int, str, ModelSpec | MethodSpec]] = [
            ("models", index, "prune", model) for index, model in enumerate(self.models)
        ]
        places += [("methods", i, section, method) for i, method in enumerate(self.methods) for section in OVERRIDES]
        for kind, index, section, entry in places:
            try:
                _merged(getattr(self, section), getattr(entry, section))
            except ValidationError as error:
                errors += [line_error(detail, kind, index, section) for detail in error.errors()]
        if errors:
            raise ValidationError.from_exception_data("Spec", errors)
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.__dict__ == other.__dict__

    @property
    def path(self) -> str | None:
        """The file that the spec was loaded from, as it was named; None for a spec built in Python."""
        return self._path

    @property
    def profile(self) -> tuple[str, ...]:
        """Names of the applied profiles, in order."""
        return self._profile

    @property
    def stands_for(self) -> dict[str, str]:
        """Models of this spec that a profile put in the place of others: {model here: model of the spec file}."""
        return self._stands_for

    def where(self, loc: Loc) -> str:
        """Where `loc` was written, `file:line` or `--set`; for a default, where what encloses it was."""
        return str(self._locate(loc)[0])

    def error(self, loc: Loc, message: str, choices: Collection[str] = (), name: str | None = None) -> SpecError:
        """A mistake at `loc` for the caller to raise, with the nearest of `choices` proposed.

        Args:
            loc: such as `("methods", 2, "name")`.
            message: what is wrong, such as "unknown method 'vectr'".
            choices: the names that would be right.
            name: the wrong name, where it is not the value at `loc` (a key, for example).
        """
        origin, written = self._locate(loc)
        hint = nearest(self._value(loc) if name is None else name, list(choices)) if choices else ""
        return SpecError([Mistake(origin, dotted(written), "; ".join(filter(None, (message, hint))))])

    def _locate(self, loc: Loc) -> tuple[Origin, list[str | int]]:
        return self._source.locate(loc) if self._source else (Origin(f"spec '{self.name}'"), list(loc))

    def _value(self, loc: Loc) -> str:
        value: Any = self
        for part in loc:
            try:
                value = getattr(value, str(part)) if isinstance(value, Section) else value[part]
            except (AttributeError, LookupError, TypeError):
                break
        return value if isinstance(value, str) else ""
