"""A searched method of one's own: weights and gradients weighed against each other, and a space for the two."""

from __future__ import annotations

from reproducer.methods.registry import Rule, register
from reproducer.methods.space import Choice, Dimension, Float, Scalar, Space
from reproducer.pruning.statistics import Element, Power
from reproducer.spec import NonEmpty, Positive, Section


class MixtureSpace(Section, Space):
    """The exponent of the magnitudes, and how much they count beside the gradients."""

    exponents: NonEmpty[Positive] = [0.5, 1.0, 2.0]  # noqa: RUF012 - pydantic copies it

    def dimensions(self) -> dict[str, Dimension]:
        return {"p": Choice(tuple(self.exponents)), "mixing": Float(0.0, 1.0)}

    def points(self) -> dict[str, dict[str, Scalar]]:
        magnitude = {"magnitude": {"p": 2.0, "mixing": 1.0}} if 2.0 in self.exponents else {}
        return {**magnitude, "llm-pruner-e1": {"p": self.exponents[0], "mixing": 0.0}}


@register("my-mixture", label="Mixture", source="tests", space=MixtureSpace)
def my_mixture(p: float = 2.0, mixing: float = 0.5) -> Rule:
    """`mixing·Σ |w|^p + (1 − mixing)·Σ |w·ḡ|`, both over a mean of their own."""
    weights, gradients = Power(p), Element(0)
    needs = ((weights, mixing), (gradients, 1 - mixing))
    return Rule(
        tuple(statistic for statistic, share in needs if share),
        lambda vectors, _: sum(
            share * vectors[s] / (vectors[s].mean() if 0 < mixing < 1 else 1) for s, share in needs if share
        ),
    )
