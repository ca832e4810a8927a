"""Pydantic's errors in plain words, each with the line where the value was written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

from pydantic import ValidationError

from reproducer.errors import nearest
from reproducer.spec.models import OVERRIDES, MethodSpec
from reproducer.spec.origins import Loc, Mistake, Node, dotted
from reproducer.spec.sections import Named, Section
from reproducer.spec.values import said

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
}


def explain(error: ValidationError, section: type[Section], source: Node) -> list[Mistake]:
    """What is wrong in `source`, which `section` refused, one mistake for each of pydantic's errors."""
    mistakes = []
    for detail in error.errors(include_url=False):
        loc, kind, value, context = detail["loc"], detail["type"], detail["input"], detail.get("ctx", {})
        if loc and loc[-1] == "[key]":
            loc = loc[:-1]
            kind = {"literal_error": "unknown_key", "string_type": "invalid_key"}.get(kind, kind)
        origin, written = source.locate(loc)
        if kind in ("extra_forbidden", "unknown_key", "invalid_key"):
            # the line is the key's, the place what it stands in
            written = source.locate(loc[:-1])[1]
        mistakes.append(Mistake(origin, dotted(written), _words(kind, loc, value, context, section, detail["msg"])))
    return mistakes


def _words(kind: str, loc: Loc, value: Any, context: _Context, section: type[Section], otherwise: str) -> str:
    if kind == "missing":
        needed = [name for name, field in _fields(section, loc[:-1]).items() if field.is_required()]
        return f"is missing; needed here: {', '.join(needed)}"
    if kind == "extra_forbidden":
        return f"unknown key '{loc[-1]}'; {_right_key(section, str(loc[-1]), list(_fields(section, loc[:-1])))}"
    if kind == "unknown_key":
        return f"unknown key '{value}'; {nearest(str(value), _expected(context))}"
    if kind == "invalid_key":
        return f"the key {said(value if value is not None else loc[-1])} is not text; put quotes around it"
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
    return otherwise


def _expected(context: _Context) -> list[str]:
    return re.findall(r"'([^']*)'", str(context.get("expected", "")))


def _right_key(section: type[Section], wrong: str, choices: list[str]) -> str:
    """The section where the key belongs, else the nearest key of this one, else the keys to choose from."""
    for name in section.model_fields:
        inside = _section_at(section, [name])
        if inside and not issubclass(inside, Named) and wrong in inside.model_fields:
            return f"it belongs in '{name}'"
    return nearest(wrong, choices)


def _section_at(section: type[Section], loc: Loc) -> type[Section] | None:
    """The model that describes what stands at `loc`; None below plain values."""
    current: type[Section] | None = section
    for part in loc:
        if isinstance(part, int):
            continue
        if current is MethodSpec and part in OVERRIDES:
            current = OVERRIDES[part]
        else:
            field = current.model_fields.get(part) if current else None
            current = _section_in(field.annotation) if field else None
    return current


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _fields(section: type[Section], loc: Loc) -> dict[str, Any]:
    inside = _section_at(section, loc)
    return dict(inside.model_fields) if inside else {}
