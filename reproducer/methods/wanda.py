from __future__ import annotations

from typing import TYPE_CHECKING

from reproducer.methods.registry import Rule, register
from reproducer.pruning.statistics import InputNorm, MeanMagnitude, Vectors

if TYPE_CHECKING:
    from torch import Generator, Tensor


@register("wanda", label="Wanda", source="https://arxiv.org/abs/2306.11695")
def wanda() -> Rule:
    """Mean over the rows i of `|W_ij|·‖x_j‖₂`, of each input j of the output and the down projection.

    Wanda (Sun et al. 2023) scores single weights; this is its structured form, `wanda_sp` in FLAP's repository. `x_j`
    is the input over all calibration tokens. A head's score is the sum over its inputs, a key-value group's the sum
    over those of all its query heads.
    """
    weights, inputs = MeanMagnitude(), InputNorm()

    def score(vectors: Vectors, _: Generator) -> Tensor:
        return vectors[weights] * vectors[inputs]

    return Rule((weights, inputs), score, members="outputs")
