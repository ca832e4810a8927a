"""AdaPruner (Kong et al. 2025): a metric of a coarse and a fine term, and the space in which it is searched."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from reproducer.errors import UserError
from reproducer.methods.parameters import NotNegative
from reproducer.methods.registry import Rule, register
from reproducer.methods.space import Choice, Dimension, Float, Scalar, Space
from reproducer.pruning.statistics import Element, First, Second, Statistic, Vectors
from reproducer.spec import NonEmpty, Positive, Section, mistake, said

if TYPE_CHECKING:
    from torch import Generator, Tensor


def _second_order(value: Any) -> Any:
    if value == "only":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise mistake(f"should be a number of 0 or more, or 'only' (no first-order term), not {said(value)}")
    return float(value)


SecondOrder = Annotated[float | Literal["only"], BeforeValidator(_second_order)]

# The baselines whose metric is a point of the space, provided that the space offers these values.
EMBEDDED: dict[str, dict[str, Scalar]] = {
    "vector": {"alpha1": 1.0, "alpha2": 0.0, "coarse_second": 0.0},
    "llm-pruner-e1": {"alpha1": 0.0, "alpha2": 1.0, "fine_second": 0.0},
    "llm-pruner-e2": {"alpha1": 0.0, "alpha2": 1.0, "fine_second": "only"},
    "llm-pruner-mix": {"alpha1": 0.0, "alpha2": 1.0, "fine_second": 1.0},
}
TAYLOR = {"first": "llm-pruner-e1", "second": "llm-pruner-e2"}


class AdaPrunerSpace(Section, Space):
    """The metric's part of the solution space: the weights, and the values among which each factor is chosen.

    Attributes:
        alpha_max: α₁ and α₂ lie in [0, alpha_max], not both 0.
        coarse_second, fine_second: values of a and b; 0 is first order alone, "only" second order alone.
        coarse_scale, fine_scale: values of c and f.
        taylor: fixes the metric at LLM-Pruner's of the first or the second order (Table 2: w/o I1 and w/o I2).
    """

    alpha_max: Positive = 1.0
    coarse_second: NonEmpty[SecondOrder] = Field([0.0, 1e5, 1e6, 1e7, "only"])
    # Any other mixes the orders weight by weight: a pass over all samples for every candidate, and no lower objectives.
    fine_second: NonEmpty[SecondOrder] = Field(["only"])
    coarse_scale: NonEmpty[Positive] = Field([1e-2, 1e-3])
    fine_scale: NonEmpty[Positive] = Field([1e-4])
    taylor: Literal["first", "second"] | None = None

    def dimensions(self) -> dict[str, Dimension]:
        if self.taylor is not None:
            return {}
        weight, factors = Float(0.0, self.alpha_max), self._factors()
        return {"alpha1": weight, "alpha2": weight, **{name: Choice(values) for name, values in factors.items()}}

    def fixed(self) -> dict[str, Scalar]:
        if self.taylor is None:
            return {}
        return {**{name: values[0] for name, values in self._factors().items()}, **EMBEDDED[TAYLOR[self.taylor]]}

    def points(self) -> dict[str, dict[str, Scalar]]:
        if self.taylor is not None:
            return {TAYLOR[self.taylor]: {}}
        factors = self._factors()
        return {
            method: self._nearest(method)
            for method, point in EMBEDDED.items()
            if all(value in factors[name] for name, value in point.items() if name in factors)
        }

    def default(self) -> dict[str, Scalar]:
        """LLM-Pruner-E2's metric."""
        return {} if self.taylor is not None else self._nearest("llm-pruner-e2")

    def restricted(self) -> bool:
        """Else w/o I1 (Table 2) could return second-order LLM-Pruner."""
        return self.taylor is not None

    @classmethod
    def published(cls) -> dict[str, Any]:
        """Without first order alone and second order alone, which are our addition, and with all mixtures."""
        orders = [1e5, 1e6, 1e7]
        return {"coarse_second": orders, "fine_second": orders}

    def void(self, parameters: Mapping[str, Scalar]) -> bool:
        return parameters["alpha1"] == parameters["alpha2"] == 0

    def _factors(self) -> dict[str, tuple[Scalar, ...]]:
        names = ("coarse_second", "fine_second", "coarse_scale", "fine_scale")
        return {name: tuple(getattr(self, name)) for name in names}

    def _nearest(self, method: str) -> dict[str, Scalar]:
        """A baseline's metric, with the first offered value where the space does not have its own."""
        point = EMBEDDED[method]
        weights = {name: min(point[name], self.alpha_max) for name in ("alpha1", "alpha2")}  # type: ignore[type-var]
        factors = self._factors().items()
        return {**weights, **{name: point[name] if point.get(name) in of else of[0] for name, of in factors}}


@register("adapruner", label="AdaPruner", source="https://arxiv.org/abs/2503.06184", space=AdaPrunerSpace)
def adapruner(
    alpha1: NotNegative = 0.5,
    alpha2: NotNegative = 0.5,
    coarse_second: NotNegative | Literal["only"] = 1e6,
    fine_second: NotNegative | Literal["only"] = 1e6,
    coarse_scale: NotNegative = 1e-2,
    fine_scale: NotNegative = 1e-4,
) -> Rule:
    """`α₁·c·|Σ (s1 − ½·a·s2)| + α₂·f·Σ |s1 − ½·b·s2|` (Kong et al. 2025, Eq. 5 with alignment factors).

    Args:
        alpha1, alpha2: weights of the coarse and the fine term, not both 0.
        coarse_second, fine_second: the second-order factors a and b; 0 leaves the first order alone, "only" the second.
        coarse_scale, fine_scale: the scales c and f.
    """
    coarse, fine = alpha1 * coarse_scale, alpha2 * fine_scale
    if not coarse + fine > 0:
        raise UserError(
            f"adapruner's alpha1 {alpha1:g} and alpha2 {alpha2:g}, with their scales, leave nothing of either term"
        )
    # |Σ ½ s2| and Σ |½ s2| are both ½ Σ s2: s2 is never negative.
    element = Second() if fine_second == "only" else Element(float(fine_second))
    needs: set[Statistic] = set()
    if coarse:
        needs |= {First()} if coarse_second == 0 else {Second()} if coarse_second == "only" else {First(), Second()}
    if fine:
        needs.add(element)

    def score(vectors: Vectors, _: Generator) -> Tensor:
        terms = []
        if coarse:
            if coarse_second == "only":
                terms.append(coarse * 0.5 * vectors[Second()])
            elif coarse_second == 0:
                terms.append(coarse * vectors[First()].abs())
            else:
                terms.append(coarse * (vectors[First()] - 0.5 * coarse_second * vectors[Second()]).abs())
        if fine:
            terms.append(fine * (0.5 if fine_second == "only" else 1.0) * vectors[element])
        return sum(terms[1:], terms[0])

    return Rule(tuple(sorted(needs, key=repr)), score)
