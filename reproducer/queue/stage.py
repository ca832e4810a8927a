"""A stage: one step of the queue, named by the hash of its recipe."""

from __future__ import annotations

import hashlib
import json
import math
import re
import types
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from reproducer.errors import UserError

if TYPE_CHECKING:
    from reproducer.queue.context import Context

KEY_LENGTH = 20  # hexadecimal digits: 80 bits, far beyond any number of stages
RESERVED = frozenset({"work", "corrupt", "failed", "locks", "logs", "verified", "shared"})  # the store's own folders
_KIND = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Stage(BaseModel):
    """One step. A subclass is a kind of stage: its fields say what to do, `run` does it.

    A field that holds another stage is an input: the stage needs that one's artifact. All other fields but `label`
    are the stage's parameters. Two stages are equal when their keys are.

        class Prune(Stage):
            kind = "prune"
            model: Fetch                     # an input
            text: Fetch | None = None        # an input that need not be there
            ratio: float

            def run(self, context):
                ... context.inputs["model"] ... context.directory ...

    Attributes:
        kind: names the kind's folder in the store.
        version: raised when the same recipe would now give another result.
        resumable: `run` can go on in a folder that an interrupted run of the same stage left. The folder is emptied
            all the same if an input's content or a fingerprint has changed since.
        timed: what it finds out are times, so nothing else of the run goes on beside it: it waits until nothing does.
        label: for a person to read, not in the key; the kind by default.
    Raises:
        ValueError: a field's value is not valid (pydantic's ValidationError), or the kind cannot name a folder.
        UserError: a parameter is NaN or infinite.
        TypeError: a parameter is no JSON value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    resumable: ClassVar[bool] = False
    timed: ClassVar[bool] = False
    label: str = ""

    def run(self, context: Context) -> None:
        """Do the work; returns when all files are written. UserError for what a user can mend."""
        raise NotImplementedError

    def fingerprints(self, device: str) -> dict[str, str]:
        """Today's {source: digest} of everything outside the store that the stage reads, run on `device`.

        Called before the stage runs (it joins the record) and before an artifact is reused (a difference makes it
        stale). If it raises, the stage fails with that error.
        """
        return {}

    @property
    def inputs(self) -> dict[str, Stage]:
        """The stages whose artifacts this one needs, by field name."""
        return {name: value for name, value in _fields(self).items() if isinstance(value, Stage)}

    @cached_property
    def params(self) -> dict[str, Any]:
        """All other fields but the label, as JSON values."""
        fields = _fields(self).items()
        own = {name: value for name, value in fields if name != "label" and not self._is_input(name)}
        plain: dict[str, Any] = json.loads(canonical(own, f"stage '{self.label}': params"))
        return plain

    @cached_property
    def key(self) -> str:
        """The hash of the recipe: kind, version, parameters and the inputs' keys."""
        recipe = {
            "kind": self.kind,
            "version": self.version,
            "params": self.params,
            "inputs": {name: stage.key for name, stage in self.inputs.items()},
        }
        return hashlib.sha256(canonical(recipe).encode()).hexdigest()[:KEY_LENGTH]

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        kind = cls.__dict__.get("kind")
        if kind is not None and (not _KIND.fullmatch(kind) or kind in RESERVED):
            raise ValueError(f"{kind!r} cannot be a kind: a lower-case word that is none of {sorted(RESERVED)}")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        object.__setattr__(self, "label", self.label or self.kind)
        _ = self.key  # now: a recipe that has no key is no stage
        return self

    @classmethod
    def _is_input(cls, name: str) -> bool:
        # By its annotation, so that an input that is not there (None) is no parameter either.
        pending = [cls.model_fields[name].annotation]
        while pending:
            annotation = pending.pop()
            if get_origin(annotation) in (Annotated, Union, types.UnionType, tuple):
                pending.extend(get_args(annotation))
            elif isinstance(annotation, type) and issubclass(annotation, Stage):
                return True
        return False

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A stage with other values for some fields, validated, and with a key of its own."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**fields, **(update or {})})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:  # pydantic's own would repeat an input for each way that leads to it
        return f"<{self.kind} {self.key} '{self.label}'>"

    __str__ = __repr__


def canonical(value: Any, where: str = "value") -> str:
    """The one JSON text of `value`: sorted keys, no spaces, ASCII only, floats as their shortest exact decimal.

    The text does not depend on the machine, the order of a mapping or the hash seed. Numbers keep their type:
    1 is written `1` and 1.0 is written `1.0`, so they are different recipes. A stage may well do different
    things with them (an integer tensor or a float one), and a needless rerun is better than a wrong reuse;
    the annotation of a field decides on one type.

    Args:
        value: None, bool, int, float, str, and lists, tuples, str-keyed mappings and pydantic models of them (with
            all fields of a model's own class, whatever class a field is annotated with, but those of `exclude=True`).
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
    if isinstance(value, BaseModel) and not isinstance(value, Stage):
        value = _fields(value)
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{where} has the key {name!r}; the keys of a recipe are strings")
        return {name: _plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    hint = "; an input is a field of its own" if isinstance(value, Stage) else ""
    raise TypeError(f"{where} is a {type(value).__name__}, which is not a JSON value{hint}")


def _fields(model: BaseModel) -> dict[str, Any]:
    # Not what iterating gives: that has cached properties too.
    known = {name: getattr(model, name) for name, field in type(model).model_fields.items() if not field.exclude}
    return {**known, **(model.model_extra or {})}


def topological(stages: Iterable[Stage]) -> list[Stage]:
    """All stages that `stages` need, themselves included: without duplicates, inputs first, else in given order."""
    ordered: dict[str, Stage] = {}
    for wanted in stages:
        stack = [wanted]
        while stack:
            stage = stack[-1]
            waiting = [needed for needed in stage.inputs.values() if needed.key not in ordered]
            if waiting:
                stack.extend(reversed(waiting))
            else:
                ordered.setdefault(stage.key, stage)
                stack.pop()
    return list(ordered.values())
