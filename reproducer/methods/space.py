"""What a searched method searches: the parameters of its rule, each with its range.

A space is a section of a spec, so that its ranges can be written there:

    class MySpace(Section, Space):
        high: Positive = 4.0

        def dimensions(self):
            return {"p": Float(0.5, self.high)}

    @register("my-power", label="My power", source="…", space=MySpace)
    def my_power(p: float = 2) -> Rule: ...

The search chooses calibration samples beside these parameters; it knows no space by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Scalar = float | int | str | bool


@dataclass(frozen=True)
class Float:
    """Any number from `low` to `high`, both included."""

    low: float
    high: float


@dataclass(frozen=True)
class Int:
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int


@dataclass(frozen=True)
class Choice:
    """One of `values`, without an order between them."""

    values: tuple[Scalar, ...]


Dimension = Float | Int | Choice


class Space:
    """Base of the spaces; a pydantic section derives from it too (no fields here, only what every space answers)."""

    def dimensions(self) -> dict[str, Dimension]:
        """What is searched: {parameter of the rule: its range}. Parameters that are left out are not searched."""
        raise NotImplementedError

    def fixed(self) -> dict[str, Scalar]:
        """Parameters that this space sets and does not search."""
        return {}

    def points(self) -> dict[str, dict[str, Scalar]]:
        """Baselines that are points of the space: {method: value of each dimension}. They are the first trials."""
        return {}

    def default(self) -> dict[str, Scalar]:
        """A value of each dimension: where the parameters stay while the samples alone are searched or scored."""
        return {name: middle(dimension) for name, dimension in self.dimensions().items()}

    def restricted(self) -> bool:
        """Whether a part of the method is taken away, as in an ablation: a baseline outside is then no result of it."""
        return False

    @classmethod
    def published(cls) -> dict[str, Any]:
        """Fields that make it the space of the method's own paper, where it is another by default."""
        return {}

    def void(self, parameters: Mapping[str, Scalar]) -> bool:
        """Whether a point means nothing (all weights 0, say), so that no trial should be spent on it."""
        return False


def middle(dimension: Dimension) -> Scalar:
    """The middle of a range; the first of several values."""
    if isinstance(dimension, Choice):
        return dimension.values[0]
    centre = (dimension.low + dimension.high) / 2
    return round(centre) if isinstance(dimension, Int) else centre
