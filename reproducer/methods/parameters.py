"""Checks of methods' own parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reproducer.errors import UserError


def check_number(method: str, name: str, value: Any, allowed: str, right: Callable[[Any], bool]) -> None:
    """UserError unless `value` is a number for which `right` holds; `allowed` says in words which these are."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not right(value):
        raise UserError(f"{method}'s {name} is {value!r}; it is {allowed}")


def whole_from(least: int) -> tuple[str, Callable[[Any], bool]]:
    """`allowed` and `right` for whole numbers from `least` on."""
    return f"a whole number from {least} on", lambda value: isinstance(value, int) and value >= least
