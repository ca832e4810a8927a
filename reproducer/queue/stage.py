"""A stage: one step of the queue, named by the hash of its recipe."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reproducer.errors import UserError

KEY_LENGTH = 20  # hexadecimal digits: 80 bits, far beyond any number of stages
RESERVED = frozenset({"work", "corrupt", "failed", "locks", "verified"})  # the store's own folders
_KIND = re.compile(r"[a-z0-9][a-z0-9_-]*")


def canonical(value: Any, where: str = "value") -> str:
    """The one JSON text of `value`: sorted keys, no spaces, ASCII only, floats as their shortest exact decimal.

    The text does not depend on the machine, the order of a mapping or the hash seed. Numbers keep their type:
    1 is written `1` and 1.0 is written `1.0`, so they are different recipes. A stage may well do different
    things with them (an integer tensor or a float one), and a needless rerun is better than a wrong reuse;
    whoever builds the parameters decides on one type a field, as pydantic's models do.

    Args:
        value: None, bool, int, float, str, and lists, tuples and str-keyed mappings of them.
        where: the name of the value, for the error message.
    Raises:
        UserError: a float is NaN or infinite.
        TypeError: anything that is not a JSON value.
    """
    return json.dumps(_plain(value, where), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} is {value}", hint="a recipe holds finite numbers only")
    if value is None or isinstance(value, str | int | float):  # bool is an int
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{where} has the key {name!r}; the keys of a recipe are strings")
        return {name: _plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}, which is not a JSON value")


@dataclass(frozen=True, eq=False)
class Stage:
    """One step: what to do (`kind`, `version`, `params`) and with which other stages' artifacts (`inputs`).

    Two stages are equal when their keys are; `label` is for a person to read and not in the key. `params` is
    copied and brought into canonical form (sorted keys, tuples as lists), so a handler sees the same whoever
    built the stage.

    Raises:
        UserError: a parameter is NaN or infinite.
        TypeError, ValueError: not JSON, or a kind that cannot name a folder.
    """

    kind: str
    version: int
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, "Stage"] = field(default_factory=dict)
    label: str = ""
    key: str = field(init=False)

    def __post_init__(self) -> None:
        if not _KIND.fullmatch(self.kind) or self.kind in RESERVED:
            raise ValueError(f"{self.kind!r} cannot be a kind: a lower-case word that is none of {sorted(RESERVED)}")
        params = canonical(self.params, f"stage '{self.label or self.kind}': params")
        recipe = {
            "kind": self.kind,
            "version": self.version,
            "params": json.loads(params),
            "inputs": {name: stage.key for name, stage in self.inputs.items()},
        }
        key = hashlib.sha256(canonical(recipe).encode()).hexdigest()[:KEY_LENGTH]
        object.__setattr__(self, "params", recipe["params"])
        object.__setattr__(self, "inputs", dict(self.inputs))
        object.__setattr__(self, "label", self.label or self.kind)
        object.__setattr__(self, "key", key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def topological(stages: Iterable[Stage]) -> list[Stage]:
    """All stages that `stages` need, themselves included: without duplicates, inputs first, else in given order."""
    ordered: dict[str, Stage] = {}
    for wanted in stages:
        stack = [wanted]
        while stack:
            stage = stack[-1]
            waiting = [one for one in stage.inputs.values() if one.key not in ordered]
            if waiting:
                stack.extend(reversed(waiting))
            else:
                ordered.setdefault(stage.key, stage)
                stack.pop()
    return list(ordered.values())
