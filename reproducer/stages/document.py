"""A document expanded: the rows of its specs, each once with the measures of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reproducer.queue import Stage
from reproducer.spec import Document, Spec
from reproducer.stages.expand import Expansion, Part, Row, expand
from reproducer.stages.resolve import Resolved, ResolvedModel


def expand_all(given: Spec | Document) -> Expansion:
    """All rows and stages of a spec or a document.

    Raises:
        SpecError: as `expand` does; two specs have different rows under the same name.
    """
    if isinstance(given, Spec):
        return expand(given)
    models: dict[str, ResolvedModel] = {}
    rows: dict[tuple[Any, ...], Row] = {}
    parts: dict[Any, tuple[list[Expansion], list[int]]] = {}
    for place, spec in enumerate(given.specs):
        expansion = _renamed(expand(spec), models)
        known = parts.setdefault(repr(spec.reproduces) if spec.reproduces else place, ([], []))
        known[0].append(expansion)
        for row in expansion.rows:
            key = _identity(row)
            rows[key] = _joined(rows[key], row, spec) if key in rows else row
            number = list(rows).index(key)
            known[1].extend([] if number in known[1] else [number])
    return Expansion(
        _together(given, [expansion for of, _ in parts.values() for expansion in of], list(models.values())),
        list(rows.values()),
        parts=[Part(of, numbers) for of, numbers in parts.values()],
    )


def _renamed(expansion: Expansion, known: dict[str, ResolvedModel]) -> Expansion:
    """With another name for a model that is not what an earlier spec calls so; `known` learns of new ones."""
    names: dict[str, str] = {}
    models = []
    for model in expansion.resolved.models:
        other = known.get(model.name)
        if other is not None and _weights(other) != _weights(model):
            names[model.name] = f"{model.name}, {expansion.spec.name}"
            model = replace(model, name=names[model.name])
        models.append(known.setdefault(model.name, model))
    if not names:
        return expansion
    rows = [replace(row, model=names.get(row.model, row.model)) for row in expansion.rows]
    return Expansion(replace(expansion.resolved, models=models), rows)


def _weights(model: ResolvedModel) -> tuple[str, str]:
    return model.state.model.key, model.state.dtype


def _identity(row: Row) -> tuple[Any, ...]:
    cut = (row.ratio, row.structure_ratio, row.steps)
    return (row.model, row.method, row.label, *cut, row.recovery, row.recovery_label, row.seed)


def _joined(row: Row, again: Row, spec: Spec) -> Row:
    """A row with the stages of both; SpecError where they are not the same row."""
    stages: Mapping[str, Stage] = {**again.stages, **row.stages}
    differ = [role for role, stage in again.stages.items() if stage.key != stages[role].key]
    if differ:
        message = f"the row '{row.label}' of {row.model} is not that of an earlier spec: {', '.join(differ)} differ"
        raise spec.error(("name",), f"{message}; give one of the two another label")
    return replace(row, stages=stages)


def _together(given: Document, expansions: Sequence[Expansion], models: Sequence[ResolvedModel]) -> Resolved:
    first = expansions[0].resolved
    spec = first.spec.model_copy(
        update={
            "name": given.name,
            "title": given.title,
            "reproduces": None,
            "models": _distinct(model.given for model in models),
            "seeds": sorted({seed for one in expansions for seed in one.spec.seeds}),
        }
    )
    return Resolved(
        spec=spec,
        evaluate=first.evaluate,
        measures=first.measures,
        models=models,
        methods=_distinct(method for one in expansions for method in one.resolved.methods),
        recoveries=_distinct(recovery for one in expansions for recovery in one.resolved.recoveries),
        controls={label: name for one in expansions for label, name in one.resolved.controls.items()},
    )


def _distinct(things: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for thing in things:
        if thing not in found:
            found.append(thing)
    return found
