"""Statistics of the vectors of coupled structures, each an object that knows what it is of and how it reduces.

A statistic is one number a *vector*: a row or column of a linear module's weight that belongs to a coupled structure.

* `WeightStatistic`: of the weights alone; nothing is run.
* `InputStatistic`: of what goes into the output and the down projection, one number an input feature (a column of the
  weight), over all calibration tokens; a forward pass.
* `GradientStatistic`: of weights and gradients, from a forward and a backward pass. With `w` a weight, `g_j` its
  gradient on calibration sample j (mean next-token loss of that sample), `ḡ` the mean of the g_j and `F` the mean of
  their squares: `s1 = w·ḡ`, `s2 = w²·F`, element by element.

`reproducer.pruning.collect` takes them. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

State = tuple["Tensor", ...]


class Statistic:
    """Base of all; subclasses are frozen dataclasses of their parameters, equal if these are.

    Attributes:
        additive: whether it is the mean over the samples (of one length) of what each sample alone gives.
        outputs_only: whether it exists for columns of the output and the down projection alone.
    """

    additive: ClassVar[bool] = False
    outputs_only: ClassVar[bool] = False


class WeightStatistic(Statistic):
    """A statistic of the weights alone."""

    def of(self, weight: Tensor) -> Tensor:
        """One number a vector, [vectors], of a weight [vectors, length] in float32 or wider."""
        raise NotImplementedError


class InputStatistic(Statistic):
    """A statistic of the inputs of the output and the down projection: of each feature over all calibration tokens.

    It exists for the columns of these two weights only. The tokens come in portions; what is kept of a portion is a
    *state*, a tuple of tensors [features], and states are merged in float64. Sums merge by addition, the default.
    """

    outputs_only: ClassVar[bool] = True

    def reduce(self, inputs: Tensor) -> State:
        """The state of a portion of inputs [tokens, features] in float32 or wider."""
        raise NotImplementedError

    def merge(self, one: State, other: State) -> State:
        """The state of two portions together."""
        return tuple(a + b for a, b in zip(one, other, strict=True))

    def finish(self, state: State) -> Tensor:
        """One number a feature, [features], of the state of all tokens."""
        return state[0]


@dataclass
class Terms:
    """A chunk of vectors as the gradients give it; what no wanted statistic needs is None.

    Attributes:
        s1, s2: [vectors, length], element by element.
        sum_s1, sum_s2: [vectors], their sums; formed without s1 and s2 where nobody needs these.
    """

    s1: Tensor | None = None
    s2: Tensor | None = None
    sum_s1: Tensor | None = None
    sum_s2: Tensor | None = None


class GradientStatistic(Statistic):
    """A statistic of `s1` and `s2`."""

    def needs(self) -> set[str]:
        """The fields of `Terms` that it reads. For s2 and its sum every sample's gradient is formed apart."""
        raise NotImplementedError

    def of(self, terms: Terms) -> Tensor:
        """One number a vector, [vectors]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Power(WeightStatistic):
    """`Σ |w|^p` of a vector."""

    p: float = 2

    def of(self, weight: Tensor) -> Tensor:
        return weight.abs().pow(self.p).sum(1)


@dataclass(frozen=True)
class MeanMagnitude(WeightStatistic):
    """Mean `|w|` of a vector."""

    def of(self, weight: Tensor) -> Tensor:
        return weight.abs().mean(1)


@dataclass(frozen=True)
class InputMean(InputStatistic):
    """Mean of each feature over the tokens."""

    additive: ClassVar[bool] = True

    def reduce(self, inputs: Tensor) -> State:
        return inputs.sum(0), inputs.new_tensor(len(inputs))

    def finish(self, state: State) -> Tensor:
        return state[0] / state[1]


@dataclass(frozen=True)
class InputSquare(InputStatistic):
    """Mean square of each feature over the tokens."""

    additive: ClassVar[bool] = True

    def reduce(self, inputs: Tensor) -> State:
        return inputs.square().sum(0), inputs.new_tensor(len(inputs))

    def finish(self, state: State) -> Tensor:
        return state[0] / state[1]


@dataclass(frozen=True)
class InputNorm(InputStatistic):
    """`‖x_j‖₂` of each feature over the tokens (Wanda)."""

    def reduce(self, inputs: Tensor) -> State:
        return (inputs.square().sum(0),)

    def finish(self, state: State) -> Tensor:
        return state[0].sqrt()


@dataclass(frozen=True)
class InputVariance(InputStatistic):
    """Mean squared deviation of each feature from its mean over the tokens (FLAP).

    Portions are merged as Chan, Golub and LeVeque (1983) do: no difference of large sums is ever taken.
    """

    def reduce(self, inputs: Tensor) -> State:
        mean = inputs.mean(0)
        apart = inputs - mean
        squares = apart.square().sum(0) - apart.sum(0).square() / len(inputs)  # less what the mean is rounded by
        return inputs.new_tensor(len(inputs)), mean, squares.clamp_(min=0)

    def merge(self, one: State, other: State) -> State:
        (count, mean, squares), (more, other_mean, other_squares) = one, other
        total, apart = count + more, other_mean - mean
        return total, mean + apart * (more / total), squares + other_squares + apart.square() * (count * more / total)

    def finish(self, state: State) -> Tensor:
        return state[2] / state[0]


@dataclass(frozen=True)
class First(GradientStatistic):
    """`Σ s1`, signed."""

    additive: ClassVar[bool] = True

    def needs(self) -> set[str]:
        return {"sum_s1"}

    def of(self, terms: Terms) -> Tensor:
        assert terms.sum_s1 is not None
        return terms.sum_s1


@dataclass(frozen=True)
class Second(GradientStatistic):
    """`Σ s2`."""

    additive: ClassVar[bool] = True

    def needs(self) -> set[str]:
        return {"sum_s2"}

    def of(self, terms: Terms) -> Tensor:
        assert terms.sum_s2 is not None
        return terms.sum_s2


@dataclass(frozen=True)
class Element(GradientStatistic):
    """`Σ |s1 − ½·factor·s2|`: LLM-Pruner's `param_first` with factor 0, its `param_mix` with factor 1."""

    factor: float = 0.0

    def needs(self) -> set[str]:
        return {"s1", "s2"} if self.factor else {"s1"}

    def of(self, terms: Terms) -> Tensor:
        import torch

        assert terms.s1 is not None
        if not self.factor:
            return torch.linalg.vector_norm(terms.s1, ord=1, dim=1)
        assert terms.s2 is not None
        return torch.linalg.vector_norm(torch.sub(terms.s1, terms.s2, alpha=self.factor / 2), ord=1, dim=1)


Vectors = Mapping[Statistic, "Tensor"]  # one member's statistics, each [vectors]
Statistics = dict[int, dict[str, dict[Statistic, "Tensor"]]]  # layer -> module -> statistic -> [vectors]
