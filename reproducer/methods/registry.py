"""Where methods are registered, and what a method is: a scoring rule on the core's statistics."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reproducer.errors import UserError, nearest

if TYPE_CHECKING:
    import torch

    from reproducer.pruning.statistics import Statistic, Vectors


@dataclass(frozen=True)
class Rule:
    """How a method scores one member vector.

    Attributes:
        needs: the statistics that the core has to collect.
        score: from one member's statistics, each [vectors], to scores [vectors]; higher is kept. A structure's score
            is the sum over its member vectors. The second argument is a generator seeded by the caller.
    """

    needs: tuple[Statistic, ...]
    score: Callable[[Vectors, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Method:
    """A registered method: `rule(**parameters)` makes its scoring rule."""

    name: str
    label: str
    source: str
    rule: Callable[..., Rule]
    calibrated: bool
    searched: bool

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.rule) or "").partition("\n")[0]

    @property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults of the rule's own parameters."""
        return {name: p.default for name, p in inspect.signature(self.rule).parameters.items()}

    def make_rule(self, parameters: Mapping[str, Any]) -> Rule:
        """The rule with these parameters; UserError for one that the method does not have."""
        for name in parameters:
            if name not in self.parameters:
                hint = nearest(name, self.parameters) or "it has none"
                raise UserError(f"method '{self.name}' has no parameter '{name}'", hint)
        return self.rule(**parameters)


_METHODS: dict[str, Method] = {}


def register(
    name: str, *, label: str, source: str, calibrated: bool = True, searched: bool = False
) -> Callable[[Callable[..., Rule]], Callable[..., Rule]]:
    """Decorate a function that takes the method's parameters as keywords and returns its `Rule`.

    Args:
        name: the name in specs.
        label: the name in reports.
        source: where the method was published.
        calibrated: whether it reads calibration samples.
        searched: whether its samples and parameters come out of a search.
    """

    def add(rule: Callable[..., Rule]) -> Callable[..., Rule]:
        _METHODS[name] = Method(name, label, source, rule, calibrated, searched)
        return rule

    return add


def methods() -> dict[str, Method]:
    """All methods by name: every module of this package is looked into once."""
    package = importlib.import_module(__package__ or "reproducer.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_METHODS.items()))


def get(name: str) -> Method:
    """The method registered as `name`; UserError with the nearest name otherwise."""
    known = methods()
    if name not in known:
        raise UserError(f"unknown method '{name}'", nearest(name, known))
    return known[name]
