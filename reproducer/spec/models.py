"""A spec as a whole: its models, its methods with what they override, and its sections.

Names of models, methods, data sets and tasks are any text here; `reproducer.stages` knows which exist.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails

from reproducer.errors import nearest
from reproducer.spec.origins import Loc, Mistake, Node, Origin, SpecError, dotted
from reproducer.spec.sections import (
    EXCLUSIVE,
    CalibrationSpec,
    EvaluateSpec,
    Named,
    PruneSpec,
    RecoverySpec,
    SearchSpec,
    Section,
)
from reproducer.spec.values import Count, NonEmpty, Parameter, Seed, Slug, Text, line_error, mistake


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
    prune: dict[str, Any] = Field(default_factory=dict)

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


OVERRIDES: dict[str, type[Section]] = {"prune": PruneSpec, "calibration": CalibrationSpec, "search": SearchSpec}
"""The sections that a method may override."""


class MethodSpec(Named):
    """A pruning method, its own parameters, and what it changes in the spec's sections (as written)."""

    label: Text | None = None
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    prune: dict[str, Any] = Field(default_factory=dict)
    calibration: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, Any] = Field(default_factory=dict)

    @field_validator(*OVERRIDES)
    @classmethod
    def _valid_alone(cls, override: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        OVERRIDES[str(info.field_name)].model_validate(override, context={"override": True})
        return override

    def prune_for(self, spec: Spec, model: ModelSpec) -> PruneSpec:
        """The spec's `prune` with the model's, then this method's changes; a `ratio` given there wins."""
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
    seeds: NonEmpty[Seed] = Field(default_factory=lambda: [0])

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
