"""Types of single values in a spec, with messages in the words that the user reads."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WrapValidator
from pydantic_core import InitErrorDetails, PydanticCustomError

T = TypeVar("T")

LARGEST = 2**31 - 1  # of a count: what any library's 32-bit integers hold
SMALLEST_RATIO = 1e-6


def mistake(message: str) -> PydanticCustomError:
    """An error of a validator, in the words that the user reads."""
    return PydanticCustomError("spec", "{message}", {"message": message})


def said(value: Any) -> str:
    """A value as its author would call it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text '{value if len(value) <= 40 else value[:40] + '…'}'"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "a mapping" if isinstance(value, dict) else repr(value)


def _as_list(value: Any) -> Any:
    """A value that stands alone is a list of one; null stays, to be refused."""
    if value is None or isinstance(value, list):
        return value
    return list(value) if isinstance(value, tuple) else [value]


def line_error(detail: Mapping[str, Any], *around: str | int) -> InitErrorDetails:
    """An error of one validation as an error of another, at `around` the place where it was."""
    kind = mistake(detail["msg"]) if detail["type"] == "spec" else detail["type"]
    loc = (*around, *detail["loc"])
    return InitErrorDetails(type=kind, loc=loc, input=detail["input"], ctx=detail.get("ctx", {}))


def chained(names: Iterable[Any]) -> str:
    """What several recoveries one after the other are called."""
    return " + ".join(map(str, names))


def _title(entry: Any) -> Any:
    """What tells an entry of a list from the others in a report; None where nothing does."""
    if isinstance(entry, list):
        return chained(map(_title, entry))
    if isinstance(entry, dict):
        return entry.get("label") or entry.get("name")
    return getattr(entry, "label", None) or getattr(entry, "name", entry)


def _no_repeats(value: Any, validate: Callable[[Any], list[T]]) -> list[T]:
    """The validated list; repeats are refused together with whatever else is wrong in it."""
    errors: list[InitErrorDetails] = []
    entries = value
    try:
        entries = validate(value)
    except ValidationError as error:
        errors = [line_error(detail) for detail in error.errors()]
    seen: set[Any] = set()
    for index, title in enumerate(map(_title, entries if isinstance(entries, list) else [])):
        if title is None or not isinstance(title, Hashable):
            continue
        if title in seen:
            own = hasattr(entries[index], "label")
            message = f"{title!r} is listed twice; keep one" + (" or give each a label of its own" if own else "")
            errors.append(InitErrorDetails(type=mistake(message), loc=(index,), input=title))
        seen.add(title)
    if errors:
        raise ValidationError.from_exception_data("list", errors)
    return entries


def _ratio(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 < value < SMALLEST_RATIO:
        raise mistake(f"is {value:g}, which would remove nothing from any model; give it {SMALLEST_RATIO:.6f} or more")
    if number and 0 < value < 1:  # false for NaN
        return value
    percent = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value) if isinstance(value, str) else None
    hint = "write a number such as 0.20"
    if percent and 0 < float(percent[1]) < 100:
        hint = f"write {float(percent[1]) / 100:g}"
    elif number and value == 0:
        hint = "the dense model is always reported, without being asked for"
    elif number and 1 < value < 100:
        hint = f"{value:g} % is written {value / 100:g}"
    raise mistake(f"should be a fraction above 0 and below 1, not {said(value)}; {hint}")


def _layers(value: Any) -> Any:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(type(layer) is int for layer in value)
    if not pair or min(value) < 0 or max(value) > LARGEST:
        raise mistake("should be [first, end], two layer numbers from 0 with the end excluded, such as [4, 30]")
    if value[0] >= value[1]:
        better = f"[{value[1]}, {value[0]}]" if value[0] > value[1] else f"[{value[0]}, {value[0] + 1}]"
        raise mistake(f"[{value[0]}, {value[1]}] holds no layer; write [first, end], perhaps {better}")
    return tuple(value)


def _parameter(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise mistake(f"should be a finite number, not {value!r}")
    if not isinstance(value, str | bool | int | float):
        raise mistake(f"should be a number, text, true or false, not {said(value)}")
    return value


def _no_json(value: Any, *loc: str | int) -> Iterator[InitErrorDetails]:
    """A mistake for everything inside that JSON cannot hold."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if isinstance(key, str):
                yield from _no_json(inside, *loc, key)
            else:
                yield InitErrorDetails(type="invalid_key", loc=(*loc, str(key)), input=key)
    elif isinstance(value, list):
        for index, inside in enumerate(value):
            yield from _no_json(inside, *loc, index)
    elif isinstance(value, float) and not math.isfinite(value):
        yield InitErrorDetails(type="finite_number", loc=loc, input=value)


def _plain(value: Any) -> Any:
    if errors := list(_no_json(value)):
        raise ValidationError.from_exception_data("plain", errors)
    return value


def _name(value: str) -> str:
    if any(unicodedata.category(letter) == "Cc" for letter in value):
        raise mistake("holds a line break or another control character; a name is one line of plain text")
    longest = max(len(part.encode("utf-8", "replace")) for part in value.split("/"))
    if longest > 255 or len(value) > 1000:
        raise mistake(
            "is longer than a file system allows, 255 bytes between slashes and 1000 letters in all; shorten it"
        )
    return value


def _slug(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise mistake(f"{value[:40]!r} names a folder; use letters, digits, '.', '_' and '-', a letter or digit first")
    return value


NonEmpty = Annotated[list[T], Field(min_length=1), WrapValidator(_no_repeats), BeforeValidator(_as_list)]
"""At least one, without repeats; one alone needs no list."""
Listed = Annotated[list[T], WrapValidator(_no_repeats), BeforeValidator(_as_list)]
"""The same, and may be empty."""
OneOrMore = Annotated[list[T], Field(min_length=1), BeforeValidator(_as_list)]
"""At least one, repeats allowed; one alone needs no list."""
Text = Annotated[str, Field(min_length=1)]
"""Any text, such as a prompt."""
Name = Annotated[str, Field(min_length=1), AfterValidator(_name)]
"""What names something, a path included: one line that a file system takes."""
Label = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_name)]
Slug = Annotated[str, Field(max_length=100), AfterValidator(_slug)]
Count = Annotated[int, Field(gt=0, le=LARGEST)]
Tokens = Annotated[int, Field(ge=2, le=2**24)]  # one token has no next token to predict
Positive = Annotated[float, Field(gt=0)]
Ratio = Annotated[float, BeforeValidator(_ratio)]
Layers = Annotated[tuple[int, int], BeforeValidator(_layers)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # NumPy's bound
Parameter = Annotated[int | float | str | bool, BeforeValidator(_parameter)]
Plain = Annotated[Any, AfterValidator(_plain)]
"""Whatever YAML can hold: what an open section has at a key."""
