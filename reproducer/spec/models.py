"""A spec as a whole: its models, its methods with what they override, and its sections.

Names of models, methods, data sets, tasks and recoveries are any text here; `reproducer.stages` knows which exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from reproducer.errors import UserError
from reproducer.spec.explain import OVERRIDES, explain
from reproducer.spec.origins import Loc, Mistake, Node, Origin, SpecError, dotted, wrap
from reproducer.spec.overlay import merge
from reproducer.spec.sections import CalibrationSpec, Chain, ChainName, Named, PruneSpec, RecoverySpec, Section
from reproducer.spec.values import (
    Count,
    Label,
    Listed,
    Name,
    NonEmpty,
    Parameter,
    Plain,
    Seed,
    Slug,
    line_error,
    mistake,
)

S = TypeVar("S", bound=Section)


class ModelSpec(Named):
    """A model: a name of the catalogue, a hub id, or a local folder.

    With `base` it is a derivative of that model, made here: `base` fine-tuned as `tuned` says, the adapter merged into
    its weights. `name` is then free to choose. `prune` holds what it changes in the spec's `prune` (as written).
    """

    base: Name | None = None
    tuned: RecoverySpec | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    weights: Literal["given", "random"] = "given"  # random: only the architecture counts, nothing is downloaded
    label: Label | None = None
    prune: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _derived(self) -> Self:
        if (self.base is None) != (self.tuned is None):
            raise mistake("'base' and 'tuned' stand together: what to start from, and the fine-tuning that makes it")
        if self.tuned is not None and self.tuned.name == "none":
            raise mistake("'tuned: none' makes no other model; name the base itself")
        return self


class MethodSpec(Named):
    """A pruning method, its own parameters, and what it changes in the spec's sections (as written).

    `recovery` names those of the spec's recoveries that it has rows with, a chain by a list of names or by these joined
    with " + "; empty: all.
    """

    label: Label | None = None
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    prune: dict[str, Any] = Field(default_factory=dict)
    calibration: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, Plain] = Field(default_factory=dict)
    recovery: Listed[ChainName] = Field(default_factory=list)

    def prune_for(self, spec: Spec, model: ModelSpec) -> PruneSpec:
        """The spec's `prune` with the model's, then this method's changes; a `ratio` given there wins."""
        return _merged(_merged(spec.prune, model.prune), self.prune)

    def calibration_for(self, spec: Spec) -> CalibrationSpec:
        """The spec's `calibration` with this method's changes."""
        return _merged(spec.calibration, self.calibration)

    def search_for(self, spec: Spec) -> dict[str, Any]:
        """The spec's `search` with this method's changes, as written."""
        return _over(spec.search, self.search)


def _over(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    return merge(wrap(base, Origin("")), wrap(override, Origin(""))).plain()


def _merged(section: S, override: dict[str, Any]) -> S:
    return type(section).model_validate(_over(section.model_dump(), override)) if override else section


@dataclass(frozen=True)
class Source:
    """Where a loaded spec is from: its tree, its file, and the profiles that were applied, in order.

    `maps` holds the names that each profile replaces: {kind: {old: new}}.
    """

    tree: Node
    path: str
    profiles: tuple[str, ...] = ()
    maps: list[dict[str, dict[str, str]]] = field(default_factory=list)


class Spec(Section):
    """What to run and measure. Equal specs may come from different files: origins are no part of it.

    `search` and `evaluate` are kept as written, defaults left out; their owners check them with `parse`.
    """

    name: Slug
    title: str = ""
    reproduces: Annotated[dict[Literal["table", "figure"], Count], Field(min_length=1)] | None = None
    models: NonEmpty[ModelSpec]
    methods: NonEmpty[MethodSpec]
    prune: PruneSpec = Field(default_factory=PruneSpec)
    calibration: CalibrationSpec = Field(default_factory=CalibrationSpec)
    search: dict[str, Plain] = Field(default_factory=dict)
    recovery: NonEmpty[Chain] = Field(default_factory=lambda: [[RecoverySpec(name="none")]])
    evaluate: dict[str, Plain] = Field(default_factory=dict)
    seeds: NonEmpty[Seed] = Field(default_factory=lambda: [0])
    controls: Listed[Name] = Field(default_factory=list)

    _source: Source | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _overrides_fit(self) -> Self:
        """What a model or a method overrides is checked together with the section that it changes."""
        errors: list[InitErrorDetails] = []
        entries: list[tuple[str, int, Named]] = [("models", *entry) for entry in enumerate(self.models)]
        entries += [("methods", *entry) for entry in enumerate(self.methods)]
        for kind, index, entry in entries:
            for section in OVERRIDES:
                try:
                    _merged(getattr(self, section), getattr(entry, section, {}))
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
        return self._source.path if self._source else None

    @property
    def profile(self) -> tuple[str, ...]:
        """Names of the applied profiles, in order."""
        return self._source.profiles if self._source else ()

    @property
    def stands_for(self) -> dict[str, str]:
        """Models of this spec that a profile put in the place of others: {model here: model of the spec file}."""
        original: dict[str, str] = {}
        for maps in self._source.maps if self._source else ():
            for old, new in maps.get("models", {}).items():
                original.setdefault(new, original.get(old, old))
        return {model.name: original[model.name] for model in self.models if model.name in original}

    def substitute(self, kind: Literal["models", "recovery", "datasets", "tasks"], name: str) -> str:
        """What the profiles put in the place of `name`, or `name`: for defaults, which no spec writes down.

        Several names may become the same one: `dict.fromkeys` over a list of them keeps each once.
        """
        for maps in self._source.maps if self._source else ():
            name = maps.get(kind, {}).get(name, name)
        return name

    def parse(self, loc: Loc, section: type[S], data: Mapping[str, Any]) -> S:
        """An open section, or what a method makes of it, as its owner's model.

        Args:
            loc: where the data stand, such as `("evaluate",)`, `("recovery", 1)` or `("methods", 2, "search")`. What a
                method does not override is looked for in the section itself.
            section: describes the data; its mistakes are told in the words of the spec's own.
            data: such as `spec.evaluate`, `spec.recovery[1][0].parameters` or `spec.methods[2].search_for(spec)`.

        Raises:
            SpecError: a line for each mistake.
        """
        try:
            return section.model_validate(data)
        except ValidationError as error:
            raise SpecError(explain(error, section, self._locate, loc, type(self))) from None

    def where(self, loc: Loc) -> str:
        """Where `loc` was written, `file:line` or `--set`; for a default, where what encloses it was."""
        return str(self._locate(loc)[0])

    def error(self, loc: Loc, message: str) -> SpecError:
        """A mistake at `loc`, such as `("methods", 2, "name")`, for the caller to raise."""
        origin, written = self._locate(loc)
        return SpecError([Mistake(origin, dotted(written), message)])

    @contextmanager
    def at(self, loc: Loc) -> Iterator[None]:
        """A UserError raised inside becomes a SpecError with the file and the line of `loc`."""
        try:
            yield
        except SpecError:
            raise
        except UserError as error:
            raise self.error(loc, str(error).replace("\n", "; ")) from None

    def _locate(self, loc: Loc) -> tuple[Origin, list[str | int]]:
        if self._source is None:
            return Origin(f"spec '{self.name}'"), list(loc)
        tree = self._source.tree
        if len(loc) > 2 and loc[0] in ("models", "methods") and loc[2] in type(self).model_fields:
            own, common = (node.value if (node := tree.get(*at)) else None for at in (loc, loc[2:]))
            if own in (None, {}) and common not in (None, {}):
                loc = loc[2:]  # the model or the method does not override it
        return tree.locate(loc)
