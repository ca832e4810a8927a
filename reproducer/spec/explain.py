"""Pydantic's errors in plain words, each with the line where the value was written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

from pydantic import ValidationError

from reproducer.errors import nearest
from reproducer.spec.origins import Loc, Mistake, Origin, dotted
from reproducer.spec.sections import CalibrationSpec, Named, PruneSpec, Section
from reproducer.spec.values import said

OVERRIDES: dict[str, type[Section]] = {"prune": PruneSpec, "calibration": CalibrationSpec}
"""The sections that a model or a method may override, by key; the open `search` is its owner's to check."""

_Context = dict[str, Any]

# type of a pydantic error -> what the value should be
_SHOULD_BE: dict[str, Callable[[_Context], str]] = {
    "int_type": lambda _: "a whole number",
    "float_type": lambda _: "a number",
    "string_type": lambda _: "text",
    "bool_type": lambda _: "true or false",
    "list_type": lambda _: "a list",
    "dict_type": lambda _: "a mapping of keys to values",
    "finite_number": lambda _: "a finite number",
    "greater_than": lambda context: f"above {context['gt']:g}",
    "greater_than_equal": lambda context: f"{context['ge']:g} or more",
    "less_than": lambda context: f"below {context['lt']}",
    "less_than_equal": lambda context: f"{context['le']} or less",
    "string_too_long": lambda context: f"no longer than {context['max_length']} characters",
}


Locate = Callable[[Loc], tuple[Origin, list[str | int]]]


def explain(
    error: ValidationError,
    section: type[Section],
    locate: Locate,
    around: Loc = (),
    root: type[Section] | None = None,
) -> list[Mistake]:
    """One mistake for each of pydantic's errors.

    Args:
        error: of `section`.
        locate: gives the origin of a place, and the place as its author wrote it.
        around: where the refused data stand.
        root: the section that `around` begins in, of which an unknown key may be; None: `section` itself.
    """
    mistakes = []
    for detail in error.errors(include_url=False):
        loc, kind, value, context = detail["loc"], detail["type"], detail["input"], detail.get("ctx", {})
        if loc and loc[-1] == "[key]":
            loc = loc[:-1]
            kind = {"literal_error": "unknown_key", "string_type": "invalid_key"}.get(kind, kind)
        origin, written = locate((*around, *loc))
        if kind in ("extra_forbidden", "unknown_key", "invalid_key"):
            written = written[:-1]  # the line is the key's, the place what it stands in
        if kind == "extra_forbidden":
            key, choices = str(loc[-1]), list(_fields(section, loc[:-1]))
            home = _home(section, key, around) or (_home(root, key) if root else "")
            words = f"unknown key '{key}'; " + (f"it belongs in '{home}'" if home else nearest(key, choices))
        else:
            words = _words(kind, loc, value, context, section, detail["msg"])
        mistakes.append(Mistake(origin, dotted(written), words))
    return mistakes


def _words(kind: str, loc: Loc, value: Any, context: _Context, section: type[Section], otherwise: str) -> str:
    if kind == "missing":
        needed = [name for name, field in _fields(section, loc[:-1]).items() if field.is_required()]
        return f"is missing; needed here: {', '.join(needed)}"
    if kind == "unknown_key":
        return f"unknown key '{value}'; {nearest(str(value), _expected(context))}"
    if kind == "invalid_key":
        return f"the key {said(value)} is not text; put quotes around it"
    if kind == "literal_error":
        choices = _expected(context)
        listed = ", ".join(f"'{choice}'" for choice in choices)
        close = nearest(value, choices) if isinstance(value, str) else ""
        return f"should be one of {listed}, not {said(value)}" + (f"; {close}" if "mean" in close else "")
    if kind == "model_type":
        inside = _section_at(section, loc)
        name = "a name, or " if inside and issubclass(inside, Named) else ""
        return f"should be {name}a mapping with keys of {', '.join(_fields(section, loc))}, not {said(value)}"
    if kind == "too_short":
        return "is empty; give at least one"
    if kind == "string_too_short":
        return "is empty; give a name"
    if kind in _SHOULD_BE:
        quotes = kind == "string_type" and isinstance(value, bool | int | float)
        hint = "; put quotes around it" if quotes else ""
        return f"should be {_SHOULD_BE[kind](context)}, not {said(value)}{hint}"
    return str(context["error"]) if kind == "value_error" else otherwise


def _expected(context: _Context) -> list[str]:
    return re.findall(r"'([^']*)'", str(context.get("expected", "")))


def _home(section: type[Section], key: str, around: Loc = ()) -> str:
    """The section within `section` that has `key`, if there is one."""
    for name in section.model_fields:
        inside = _section_at(section, [name])
        if inside and not issubclass(inside, Named) and key in inside.model_fields:
            return dotted((*around, name))
    return ""


def _section_at(section: type[Section], loc: Loc) -> type[Section] | None:
    """The model that describes what stands at `loc`; None below plain values."""
    current: type[Section] | None = section
    for part in loc:
        if not isinstance(part, int):
            field = current.model_fields.get(part) if current else None
            override = OVERRIDES.get(part) if current and issubclass(current, Named) else None
            current = (_section_in(field.annotation) or override) if field else None
    return current


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _fields(section: type[Section], loc: Loc) -> dict[str, Any]:
    inside = _section_at(section, loc)
    return dict(inside.model_fields) if inside else {}
