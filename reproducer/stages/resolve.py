"""A spec's names, each looked up once: from here on the program passes objects on.

A name that nothing answers to is told with its file, its line and the nearest right one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field, create_model

from reproducer.data.sources import rows_of
from reproducer.errors import UserError
from reproducer.methods.registry import METHODS, Method
from reproducer.methods.space import Space
from reproducer.models import fetch
from reproducer.models.catalogue import Entry, resolve
from reproducer.recovery.registry import RECOVERIES, Recovery
from reproducer.search.settings import SearchSettings
from reproducer.spec import CalibrationSpec, Listed, MethodSpec, ModelSpec, RecoverySpec, Section, Spec
from reproducer.spec.origins import Gathered, Loc
from reproducer.stages.base import Calibration, ModelState, Role, TextSource
from reproducer.stages.controls import controlled
from reproducer.stages.measure import MEASURES, Measure, measures
from reproducer.stages.model import DeriveModel, FetchModel
from reproducer.stages.recovery import Recover

POOL_TEXT = "bookcorpus"  # the paper's calibration data
DENSE = "dense"


class OwnMeasures(Section):
    """`measures`: of the user's own, by module or by an installed package's entry point, each with its settings."""

    measures: Listed[RecoverySpec] = Field(default_factory=list)


@dataclass(frozen=True)
class ResolvedModel:
    """A model of the spec: its catalogue entry (of a derived one, its base's) and the stage that provides it."""

    name: str
    label: str
    given: ModelSpec
    entry: Entry
    state: ModelState
    tuned: Recovery | None = None

    def facts(self, stands_for: str | None) -> dict[str, Any]:
        """What results.json says of it."""
        recipe = fetch.recipe(self.entry)
        return {
            "name": self.name,
            "label": self.label,
            "source": {"kind": recipe.pop("source"), **recipe},
            "dtype": self.entry.dtype,
            "architecture": (self.entry.config or {}).get("model_type"),
            "notes": self.entry.notes,
            "stands_for": stands_for,
            "base": self.given.base,
            "tuned": self.tuned and {"name": self.tuned.name, **self.tuned.model_dump(mode="json")},
        }


@dataclass(frozen=True)
class ResolvedMethod:
    """A method of the spec with what it changes in the spec's sections."""

    name: str
    label: str
    given: MethodSpec
    method: Method
    calibration: Calibration
    search: SearchSettings | None = None
    space: Space | None = None
    texts: tuple[TextSource, ...] = ()  # that it searches on

    @property
    def plain(self) -> bool:
        """Whether it runs as its name alone says, so that a search may score it as a baseline."""
        return not (self.given.parameters or self.given.prune or self.given.calibration or self.method.trains)


@dataclass(frozen=True)
class Resolved:
    """A spec with every name looked up."""

    spec: Spec
    evaluate: Any
    measures: Sequence[tuple[type[Measure], Any]]  # each kind, and the section that holds its keys
    models: Sequence[ResolvedModel]
    methods: Sequence[ResolvedMethod]
    recoveries: Sequence[Sequence[tuple[str, Recovery]]]  # chains, with the spec's names; an empty one is `none`
    controls: Mapping[str, str]  # which control a row is of, by its label


def resolved(spec: Spec) -> Resolved:
    """Look up all names of a spec.

    Raises:
        SpecError: all that are wrong, each with file, line and the nearest right name.
    """
    spec, controls = controlled(spec)
    evaluate, wrong = _evaluate(spec), Gathered()
    reported: list[dict[str, Any]] = []
    with wrong.part():
        measured = _texts(spec, ("evaluate", "perplexity"), evaluate.perplexity, "report")
        reported = [rows_of(text.source) for text in measured]
    models: list[ResolvedModel] = []
    for index in range(len(spec.models)):
        with wrong.part():
            models.append(_model(spec, index))
    for kind, keys in _measures(spec, evaluate) if models else ():
        with wrong.part():
            kind.stages_for(keys, spec, models[0].state)
    methods: list[ResolvedMethod] = []
    for index, given in enumerate(spec.methods):
        with wrong.part():
            methods += [_method(spec, index, evaluate.perplexity, reported)] if given.name != DENSE else []
    recoveries: list[list[tuple[str, Recovery]]] = []
    for index, chain in enumerate(spec.recovery):
        recoveries.append([])
        for place, entry in enumerate(chain):
            with wrong.part():
                recovery = _recovery(spec, ("recovery", index, place), entry, reported)
                recoveries[-1] += [(entry.name, recovery)] if recovery else []
    wrong.tell()
    if all(method.search is None for method in methods):
        spec.parse(("search",), SearchSettings, spec.search)  # it plays no part; a mistake in it is one all the same
    found = Resolved(spec, evaluate, _measures(spec, evaluate), models, methods, recoveries, controls)
    _check_lengths(found)
    return found


def _evaluate(spec: Spec) -> Any:
    """The section `evaluate` with the keys of all measuring stages, and the paper's texts where it names none."""
    keys: Any = create_model("Evaluate", __base__=(OwnMeasures, *(kind.Keys for kind in measures())))  # type: ignore[arg-type]
    found: Any = spec.parse(("evaluate",), keys, spec.evaluate)
    defaults = {name: value for kind in measures() for name, value in kind.defaults(spec).items()}
    missing = {name: value for name, value in defaults.items() if getattr(found, name) is None}
    return found.model_copy(update=missing)


def _measures(spec: Spec, evaluate: Any) -> list[tuple[type[Measure], Any]]:
    """All measures of this package, and those of the user's own that the spec names."""
    kinds: list[tuple[type[Measure], Any]] = [(kind, evaluate) for kind in measures()]
    for index, entry in enumerate(evaluate.measures):
        loc: Loc = ("evaluate", "measures", index)
        with spec.at((*loc, "name")):
            kind = MEASURES.get(entry.name)
        kinds.append((kind, spec.parse(loc, kind.Keys, entry.parameters)))
    return kinds


def _recovery(spec: Spec, loc: Loc, given: RecoverySpec, reported: Sequence[dict[str, Any]] = ()) -> Recovery | None:
    """Args: reported: what names the rows that the report measures on, from which it must not learn."""
    if given.name == "none":
        spec.parse(loc, Section, given.parameters)
        return None
    with spec.at((*loc, "name")):
        kind = RECOVERIES.get(given.name)
    with spec.at(loc):
        recovery = spec.parse(loc, kind, given.parameters).resolved(spec.substitute)
        for name, source in recovery.sources().items():
            if rows_of(source) in reported:
                message = f"the recovery would learn from the same rows of '{name}' that the report measures on"
                raise UserError(message, "name another text")
    return recovery


def _model(spec: Spec, index: int) -> ResolvedModel:
    given = spec.models[index]
    with spec.at(("models", index, "name" if given.base is None else "base")):
        entry = resolve(given.base or given.name)
    if given.weights == "random":
        with spec.at(("models", index, "weights")):
            entry = entry.with_random_weights()
    if given.dtype != "auto":
        entry = entry.with_dtype(given.dtype)
    several = sum(other.name == given.name for other in spec.models) > 1
    name = given.label or given.name if several else given.name
    state = ModelState(FetchModel.of(entry), entry.dtype)
    if given.tuned is None:
        return ResolvedModel(name, given.label or entry.label, given, entry, state)
    tuned = _recovery(spec, ("models", index, "tuned"), given.tuned)
    assert tuned is not None  # `tuned: none` is refused by the spec
    # the same for all seeds of a spec
    derived = DeriveModel.of(given.name, Recover.of(given.tuned.name, tuned, state, seed=0))
    return ResolvedModel(name, given.label or given.name, given, entry, ModelState(derived, entry.dtype), tuned)


def _method(spec: Spec, index: int, perplexity: Sequence[str], reported: Sequence[dict[str, Any]]) -> ResolvedMethod:
    """Args: perplexity, reported: the texts that the report measures on, and what names their rows."""
    given = spec.methods[index]
    with spec.at(("methods", index, "name")):
        method = METHODS.get(given.name)
    for place, chain in enumerate(given.recovery):
        with spec.at(("methods", index, "recovery", place)):
            for recovery in chain.split(" + ") if chain != "none" else ():
                RECOVERIES.get(recovery)
    if method.space is not None and given.parameters:
        message = f"method '{given.name}' has no parameter to set: they are searched"
        raise spec.error(("methods", index, "parameters"), message)
    own: Loc = ("methods", index, "calibration")
    calibration = _calibration(spec, own, given.calibration_for(spec), reported if method.calibrated else ())
    found = ResolvedMethod(given.name, given.label or method.label, given, method, calibration)
    if method.space is None:
        if given.search:
            raise spec.error(("methods", index, "search"), f"method '{given.name}' is not searched; leave it out")
    else:
        found = _searched(spec, index, found, perplexity, reported)
    baselines = [METHODS.get(name) for name in found.search.baselines] if found.search else []
    for one in (method, *baselines):
        if one.calibrated and calibration.samples < one.min_samples:
            message = f"{one.name} needs {one.min_samples} samples or more, not {calibration.samples}"
            raise spec.error((*own, "samples"), message)
    return found


def _searched(
    spec: Spec, index: int, found: ResolvedMethod, perplexity: Sequence[str], reported: Sequence[dict[str, Any]]
) -> ResolvedMethod:
    """A method with what its search is made from."""
    own: Loc = ("methods", index, "search") if found.given.search else ("search",)
    settings = spec.parse(own, SearchSettings, found.given.search_for(spec))
    section: Any = found.method.space  # spaces are sections of a spec
    published = section.published() if settings.mode == "paper" else {}
    space: Space = spec.parse((*own, "space"), section, {**published, **settings.space})
    for place, name in enumerate(settings.baselines):
        with spec.at((*own, "baselines", place)):
            baseline = METHODS.get(name)
            if baseline.space is not None or baseline.trains:
                why = "it trains before it cuts" if baseline.trains else "it is searched itself"
                raise UserError(f"'{name}' cannot be a baseline of a search: {why}")
    source = settings.transfer and settings.transfer.model
    if source and source not in [model.name for model in spec.models]:
        with spec.at((*own, "transfer", "model")):
            resolve(source)
    texts = _search_texts(spec, own, settings, perplexity, reported)
    return replace(found, search=settings, space=space, texts=tuple(texts))


def _texts(spec: Spec, loc: Loc, names: Sequence[str], role: Role) -> list[TextSource]:
    texts, wrong = [], Gathered()
    for index, name in enumerate(names):
        with wrong.part(), spec.at((*loc, index)):
            texts.append(TextSource.of(name, role))
    wrong.tell()
    return texts


def _calibration(spec: Spec, loc: Loc, section: CalibrationSpec, reported: Sequence[dict[str, Any]]) -> Calibration:
    names = section.dataset or [spec.substitute("datasets", POOL_TEXT)]
    texts = _texts(spec, (*loc, "dataset"), names, section.split)
    for index, text in enumerate(texts):
        if rows_of(text.source) in reported:
            message = f"'{text.name}' would be calibrated on the same rows that the report measures on"
            hint = "name another text, or another split (calibration.split)"
            raise spec.error((*loc, "dataset", index), f"{message}; {hint}")
    shares = section.shares or [1 / len(names)] * len(names)
    asked = section.model_dump(include={"samples", "length", "pool"})
    return Calibration(texts=tuple(texts), shares=tuple(shares), **asked)


def _search_texts(
    spec: Spec, own: Loc, settings: SearchSettings, perplexity: Sequence[str], reported: Sequence[dict[str, Any]]
) -> list[TextSource]:
    """The texts to search on. One that the report measures on has to be asked for."""
    names, place = (settings.texts, (*own, "texts")) if settings.texts else (perplexity, ("evaluate", "perplexity"))
    if not names:
        message = "the search needs texts: name some here or in evaluate.perplexity"
        raise spec.error((*own, "texts"), message)
    texts = _texts(spec, place, names, settings.split)
    for text in texts if settings.split == "search" else ():
        if rows_of(text.source) in reported:
            message = f"'{text.name}' has no split of its own to search on: the report measures on the same rows"
            hint = "name another text in search.texts, or set search.split: report to search as the paper does"
            raise spec.error(place, f"{message}; {hint}")
    return texts


def _check_lengths(found: Resolved) -> None:
    """Everything that runs through a model has to be within its context, where that is known already."""
    spec = found.spec
    lengths: list[tuple[Loc, int]] = []
    for kind, keys in found.measures:
        lengths += [(("evaluate", *loc), length) for loc, length in kind.lengths(keys)]
    for index, chain in enumerate(found.recoveries):
        for place, (_, recovery) in enumerate(chain):
            lengths += [(("recovery", index, place, key), length) for key, length in recovery.lengths().items()]
    for method in found.methods:
        if method.method.calibrated:
            own = ("methods", spec.methods.index(method.given), "calibration", "length")
            lengths.append((own, method.calibration.length))
    for model in found.models:
        limit: int | None = (model.entry.config or {}).get("max_position_embeddings")
        for loc, length in lengths:
            if limit is not None and length > limit:
                message = f"{length} tokens are longer than the context of {model.entry.name}: {limit}"
                raise spec.error(loc, message)
