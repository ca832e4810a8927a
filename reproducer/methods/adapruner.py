from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Literal

from reproducer.errors import UserError
from reproducer.methods.registry import Rule, register

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from reproducer.pruning.statistics import Vectors

SecondOrder = float | Literal["only"]


@register("adapruner", label="AdaPruner", source="https://arxiv.org/abs/2503.06184", space=None)
def adapruner(
    alpha1: float = 0.5,
    alpha2: float = 0.5,
    coarse_second: SecondOrder = 1e6,
    fine_second: SecondOrder = 1e6,
    coarse_scale: float = 1e-2,
    fine_scale: float = 1e-4,
) -> Rule:
    """`α₁·c·|Σ (s1 − ½·a·s2)| + α₂·f·Σ |s1 − ½·b·s2|` (Kong et al. 2025, Eq. 5 with alignment factors).

    Args:
        alpha1, alpha2: weights of the coarse and the fine term, not both 0.
        coarse_second, fine_second: the second-order factors a and b; 0 leaves the first order alone, "only" the second.
        coarse_scale, fine_scale: the scales c and f.
    """
    from reproducer.pruning.statistics import Element, First, Second, Statistic

    weights = {"alpha1": alpha1, "alpha2": alpha2, "coarse_scale": coarse_scale, "fine_scale": fine_scale}
    factors = {"coarse_second": coarse_second, "fine_second": fine_second}
    for name, value in {**weights, **factors}.items():
        if not (name in factors and value == "only") and not (isinstance(value, int | float) and 0 <= value < inf):
            allowed = "a number from 0 on" + (' or "only"' if name in factors else "")
            raise UserError(f"adapruner's {name} is {value!r}; it is {allowed}")
    coarse, fine = alpha1 * coarse_scale, alpha2 * fine_scale
    if not coarse + fine > 0:
        raise UserError(f"adapruner's weights {weights} leave nothing of either term")
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
