"""Methods' own parameters: the types that their signatures name, and the check of values against them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from inspect import signature
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from reproducer.errors import UserError, nearest

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def check_parameters(method: str, function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """UserError for a parameter that the function does not have, or a value that its annotation does not allow."""
    known = list(signature(function).parameters)
    for name, value in values.items():
        if name not in known:
            raise UserError(f"method '{method}' has no parameter '{name}'", nearest(name, known) or "it has none")
        try:
            if name in _adapters(function):
                _adapters(function)[name].validate_python(value)
        except ValidationError as error:
            allowed = dict.fromkeys(each["msg"].removeprefix("Input ") for each in error.errors())
            raise UserError(f"{method}'s {name} is {value!r}; it {', or '.join(allowed)}") from None


@cache
def _adapters(function: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    """By parameter; none where an annotation names what is not there while the module runs."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:
        return {}
    return {name: TypeAdapter(hint, config=STRICT) for name, hint in hints.items() if name != "return"}
