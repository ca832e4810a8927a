"""Checks of methods' own parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from reproducer.errors import UserError

Allowed = tuple[str, Callable[[Any], bool]]
"""What is allowed, in words, and whether a number is that."""

POSITIVE: Allowed = "a number above 0", lambda value: 0 < value < math.inf


def check_number(method: str, name: str, value: Any, allowed: str, right: Callable[[Any], bool]) -> None:
    """UserError unless `value` is a number for which `right` holds; `allowed` says in words which these are."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not right(value):
        raise UserError(f"{method}'s {name} is {value!r}; it is {allowed}")


def whole_from(least: int) -> Allowed:
    """`allowed` and `right` for whole numbers from `least` on."""
    return f"a whole number from {least} on", lambda value: isinstance(value, int) and value >= least
