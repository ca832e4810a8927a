"""GPrune-LLM (Liu et al. 2026), as far as its abstract says how: units compete with those that behave like them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from reproducer.methods.parameters import Count, NotNegative
from reproducer.methods.registry import Decision, Request, register
from reproducer.pruning.statistics import InputSquare, MeanMagnitude

if TYPE_CHECKING:
    from torch import Tensor

    from reproducer.pruning.plan import Plan

SMALLEST = 8  # units of a group: in smaller ones the mean says little


@register("gprune-llm", label="GPrune-LLM", source="https://arxiv.org/abs/2603.13418", min_samples=2)
def gprune_llm(
    groups: Count = 2, sensitive: NotNegative = 1.0, weak: Annotated[float, Field(ge=0, le=1)] = 0.25
) -> Decision:
    """Activation scores in groups of units that behave alike over texts; weights alone where these mislead.

    The source says (abstract): neurons whose rank varies from text to text crowd out those whose rank does not, so
    neurons are partitioned into modules of consistent behaviour that bound the competition; where a module's neurons
    are sensitive to the text and score low, activations are too scarce to rank them, and a metric without activations
    does; each module's sparsity is learned. What is open there is chosen here. Of each layer and kind of structure:

    1. A unit's score on a text is Wanda's, the mean over i of `|W_ij|·‖x_j‖₂` summed over its inputs j of the output or
       down projection, where x is of that text alone; each calibration sample is one text. Its ranks among the units
       of its layer, from 0 to 1, have a mean and a standard deviation over the texts: the latter is its sensitivity.
    2. Units are sorted by sensitivity and cut into `groups` groups of equal size, fewer where a group would have less
       than 8 units. A group is sensitive if its mean sensitivity is above `sensitive` times the layer's; its units of
       a mean rank below `weak` then are a group of their own.
    3. Units of such a group are unreliable: their score is the mean over i of `|W_ij|`, summed likewise. That of all
       others is Wanda's over all texts.
    4. A unit's final score is its score over its group's mean, so that groups are on one scale whatever theirs is, and
       a group loses more the more its scores are spread. It takes the place of a learned sparsity. The requested cut
       then decides as it does for any scores.

    Args:
        groups: how many groups of each layer's heads, and of its channels; 2: robust and sensitive units.
        sensitive: see 2; a large value: no group is sensitive, and activations rank all.
        weak: see 2, from 0 (no unit is unreliable) to 1.
    """

    def decide(request: Request) -> Plan:
        from reproducer.pruning.collect import collect

        by_sample = collect(request.model, request.ids, request.layers, (InputSquare(),), per_sample=True)
        scores: dict[int, dict[str, Tensor]] = {}
        for index in request.layers:
            scores[index] = {}
            for kind, units in request.units(index).items():  # units own inputs side by side
                path = request.architecture.output(kind)
                squares = by_sample[index][path][InputSquare()].double()
                weights = request.statistics[index][path][MeanMagnitude()].double()
                of_texts = (weights * squares.sqrt()).view(len(squares), units, -1).sum(2)
                of_all = (weights * squares.mean(0).sqrt()).view(units, -1).sum(1)
                without = weights.view(units, -1).sum(1)
                scores[index][kind] = grouped(of_texts, of_all, without, groups, sensitive, weak)
        return request.plan(scores)

    return Decision(decide, needs=(MeanMagnitude(),), passes=((InputSquare(),),))


def grouped(of_texts: Tensor, of_all: Tensor, without: Tensor, groups: int, sensitive: float, weak: float) -> Tensor:
    """Steps 2 to 4 for the units of one layer and kind.

    Args:
        of_texts: [texts, units], scores on each text alone.
        of_all: [units], scores on all of them.
        without: [units], scores without activations.

    Returns:
        [units], float64.
    """
    import torch

    count = of_all.shape[0]
    ranks = of_texts.argsort(dim=1, stable=True).argsort(dim=1).double() / max(count - 1, 1)
    sensitivity, rank = ranks.std(dim=0), ranks.mean(dim=0)
    scores = torch.empty(count, dtype=torch.double)
    order = torch.argsort(sensitivity, stable=True)
    for members in order.tensor_split(max(1, min(groups, count // SMALLEST))):
        unreliable = rank[members] < weak
        if not sensitivity[members].mean() > sensitive * sensitivity.mean():
            unreliable[:] = False
        for group, score in ((members[~unreliable], of_all), (members[unreliable], without)):
            mean = score[group].double().mean()
            scores[group] = score[group].double() / (mean if mean > 0 else 1)
    return scores
