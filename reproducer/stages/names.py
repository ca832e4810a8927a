"""Checks the names in a spec: a wrong one is told with its line and the nearest right one."""

from __future__ import annotations

import re
from collections.abc import Callable

from reproducer.data.tasks import TASKS
from reproducer.data.text import TEXTS, resolve_text
from reproducer.errors import UserError
from reproducer.methods.registry import methods
from reproducer.models.catalogue import Entry, resolve
from reproducer.spec import Spec
from reproducer.spec.origins import Loc
from reproducer.stages.recipes import search_settings


def check(spec: Spec) -> None:
    """Raise a SpecError for the first name that nothing in the package answers to."""
    for index, model in enumerate(spec.models):
        _fits(spec, entry(spec, index))
        _unique(spec, ("models", index), [m.label or m.name for m in spec.models], model.label or model.name)
    for index, text in enumerate(spec.evaluate.perplexity):
        _text(spec, ("evaluate", "perplexity", index), text, "report")
    for index, task in enumerate(spec.evaluate.tasks):
        if task not in TASKS:
            raise spec.error(("evaluate", "tasks", index), f"unknown task '{task}'", list(TASKS))
    for index, method in enumerate(spec.methods):
        if method.name not in ("dense", *methods()):
            raise spec.error(("methods", index, "name"), f"unknown method '{method.name}'", ["dense", *methods()])
        known = methods().get(method.name)
        for parameter in method.parameters:
            if known is None or known.searched or parameter not in known.parameters:
                choices = [] if known is None or known.searched else list(known.parameters)
                message = f"method '{method.name}' has no parameter '{parameter}' to set"
                raise spec.error(("methods", index, "parameters", parameter), message, choices, name=parameter)
        labels = [m.label or m.name for m in spec.methods]
        _unique(spec, ("methods", index), labels, method.label or method.name)
        for baseline in method.search_for(spec).baselines:
            if baseline not in methods() or methods()[baseline].searched:
                choices = [name for name, one in methods().items() if not one.searched]
                raise spec.error(("search", "baselines"), f"unknown baseline '{baseline}'", choices, name=baseline)
        _text(spec, ("calibration", "dataset"), method.calibration_for(spec).dataset, "calibration")
        search = method.search_for(spec)
        if known is not None and known.searched:
            place: Loc = ("methods", index, "search") if method.search else ("search",)
            _named(spec, place, lambda search=search: search_settings(search))  # type: ignore[misc]
            source = search.transfer and search.transfer.model
            if source and source not in [model.name for model in spec.models]:
                loc = ("methods", index, "search", "transfer", "model")
                _named(spec, loc, lambda name=source: resolve(name))  # type: ignore[misc]
            for text in search.texts or spec.evaluate.perplexity:
                _text(spec, ("search", "texts"), text, search.split)
                _disjoint(spec, text, search.split)
            if not (search.texts or spec.evaluate.perplexity):
                message = "the search needs texts: name some here or in evaluate.perplexity"
                raise spec.error(("search", "texts"), message)


def model_name(spec: Spec, index: int) -> str:
    """What a row calls its model: its name; of several entries of one model, in two dtypes say, their labels."""
    model = spec.models[index]
    several = sum(other.name == model.name for other in spec.models) > 1
    return model.label or model.name if several else model.name


def entry(spec: Spec, index: int) -> Entry:
    """The catalogue entry of a spec's model (of a derived one, its base's), with the spec's dtype."""
    model = spec.models[index]
    place = "name" if model.base is None else "base"
    found: Entry = _named(spec, ("models", index, place), lambda: resolve(model.base or model.name))
    if model.weights == "random":
        found = _named(spec, ("models", index, "weights"), found.with_random_weights)
    return found if model.dtype == "auto" else found.with_dtype(model.dtype)


def slug(name: str) -> str:
    """A data set's name as it stands in a metric's key: `python-topics` -> `python_topics`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def text_label(name: str) -> str:
    return TEXTS[name].label if name in TEXTS else name


def _fits(spec: Spec, model: Entry) -> None:
    """Everything that runs through a model has to be within its context, where that is known already."""
    limit = (model.config or {}).get("max_position_embeddings")
    if limit is None:
        return
    efficiency = spec.evaluate.efficiency
    lengths: list[tuple[Loc, int | None]] = [
        (("evaluate", "efficiency", "length"), None if efficiency is None else efficiency.length),
        (("evaluate", "seq_len"), spec.evaluate.seq_len if spec.evaluate.perplexity else None),
        *((("recovery", i, "cutoff"), r.cutoff) for i, r in enumerate(spec.recovery) if r.name != "none"),
        *(
            (
                (*(("methods", i) if "length" in method.calibration else ()), "calibration", "length"),
                method.calibration_for(spec).length,
            )
            for i, method in enumerate(spec.methods)
            if (known := methods().get(method.name)) is not None and known.calibrated
        ),
    ]
    for loc, length in lengths:
        if length is not None and length > limit:
            raise spec.error(loc, f"{length} tokens are longer than the context of {model.name}: {limit}")


def _text(spec: Spec, loc: Loc, name: str, role: str) -> None:
    _named(spec, loc, lambda: resolve_text(name, role))


def _disjoint(spec: Spec, text: str, split: str) -> None:
    """A search on the texts that the report measures on has to be asked for."""
    for reported in spec.evaluate.perplexity if split == "search" else ():
        if resolve_text(text, "search") == resolve_text(reported, "report"):
            message = f"'{text}' has no split of its own to search on: the report measures on the same rows"
            hint = "name another text in search.texts, or set search.split: report to search as the paper does"
            raise spec.error(("search", "texts"), f"{message}; {hint}")


def _named(spec: Spec, loc: Loc, look: Callable):
    try:
        return look()
    except UserError as error:
        raise spec.error(loc, str(error).replace("\n", "; ")) from None


def _unique(spec: Spec, loc: Loc, labels: list[str], label: str) -> None:
    if labels.count(label) > 1 and labels.index(label) < int(loc[1]):
        raise spec.error(loc, f"'{label}' stands here twice; give one of them another label")
