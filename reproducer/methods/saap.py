"""SAAP (Zheng et al. 2024): coarse and fine importance fused by uncertainty, and layers cut by its fluctuation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from reproducer.errors import UserError
from reproducer.methods.parameters import Positive
from reproducer.methods.registry import Decision, Request, register
from reproducer.models.architecture import layer_shape
from reproducer.pruning.statistics import Element, First

if TYPE_CHECKING:
    from torch import Tensor

    from reproducer.pruning.plan import Plan

    Importance = dict[int, dict[str, Tensor]]  # layer -> kind -> [units]

Sigma = Positive | Literal["inf"] | None


@register("saap", label="SAAP", source="https://arxiv.org/abs/2412.15127")
def saap(
    sigma_vector: Sigma = None, sigma_element: Sigma = None, fluctuation: Annotated[float, Field(ge=-10, le=10)] = 1.0
) -> Decision:
    """`I_v/(2σ₁²) + I_e/(2σ₂²)`: Vector's and E1's importance, each as far as its noise lets it be trusted.

    We know of no published code. What follows is chosen here, and may be otherwise in the source:

    *One scale*: of each layer and kind of structure, I_v and I_e are divided by their root mean square.

    *Noise*: the score, with its third term `log(σ₁σ₂)`, is the negative log-likelihood of two observations with
    homoscedastic Gaussian noise (Kendall et al. 2018, the importance in place of the squared error). σ₁ and σ₂ of each
    kind of structure are where its mean over all structures is least, which has a closed form: σ² is the mean of the
    scaled importance. The third term is the same for all structures and is left out of the scores.

    *Fluctuation*: a layer's indicator is the standard deviation of its structures' fused importance over their mean,
    averaged over heads and channels. A layer loses a share of its channels, and of its heads, in proportion to
    `indicator ** -fluctuation`, the lowest first, as long as one of each stays (see `allocation.remove_lowest`): what
    fluctuates least goes first, as in FLAP. Where heads are pooled (see `allocation`), those of all layers have one
    order, by their share of their own layer's importance. A structure ratio stands for as many parameters as it removes
    where all layers lose the same share; `scope` plays no part.

    Args:
        sigma_vector, sigma_element: σ₁ and σ₂ above 0; "inf" leaves a metric out, not both; None: learned.
        fluctuation: how strongly the indicator works, as above; 0: not at all, and the cut is made as for any scores;
            below 0: layers whose importance varies most lose most.
    """
    sigmas = [math.inf if sigma == "inf" else sigma for sigma in (sigma_vector, sigma_element)]
    if sigmas == [math.inf, math.inf]:
        raise UserError("saap's sigma_vector and sigma_element are both infinite, which leaves no metric")

    def decide(request: Request) -> Plan:
        vector = request.scores(lambda vectors, _: vectors[First()].abs())
        element = request.scores(lambda vectors, _: vectors[Element(0)])
        scores = fused(vector, element, sigmas)
        if fluctuation == 0:
            return request.plan(scores)
        layers = request.architecture.decoder_layers(request.model)
        pooled = request.cut.pools(layer_shape(layers[index], request.architecture) for index in request.layers)
        places = {
            kind.name: _places(scores, kind.name, pooled and not kind.fine) for kind in request.architecture.kinds
        }
        ranked = {
            index: {kind: of_kind[index] * indicator(of_layer) ** fluctuation for kind, of_kind in places.items()}
            for index, of_layer in scores.items()
        }
        return request.keep(request.remove_lowest(ranked), scores=scores)

    return Decision(decide, needs=(First(), Element(0)))


def fused(vector: Importance, element: Importance, sigmas: list[float | None]) -> Importance:
    """The scores of structures, float64. A σ that is None is learned for each kind of structure."""
    import torch

    scores: Importance = {index: {} for index in vector}
    for kind in next(iter(vector.values()), {}):
        for metric, sigma in zip((vector, element), sigmas, strict=True):
            scaled = {index: _scaled(of_layer[kind].double()) for index, of_layer in metric.items()}
            variance = float(torch.cat(list(scaled.values())).mean()) if sigma is None else sigma**2
            for index, values in scaled.items():
                term = values / (2 * variance) if variance > 0 else values  # a metric that is 0 everywhere
                scores[index][kind] = scores[index][kind] + term if kind in scores[index] else term
    return scores


def _scaled(values: Tensor) -> Tensor:
    root = values.square().mean().sqrt()
    return values / root if root > 0 else values


def indicator(scores: dict[str, Tensor]) -> float:
    """A layer's importance fluctuation: standard deviation over mean of its structures' scores, above 0."""
    each = [float(values.std(correction=0) / values.mean()) for values in scores.values() if values.mean() > 0]
    return max(sum(each) / len(each), 1e-6) if each else 1.0


def _places(scores: Importance, kind: str, pooled: bool) -> dict[int, Tensor]:
    """{layer: [units]}: the place of each unit in ascending order, from 0 to 1, in its own layer or among all."""
    import torch

    if not pooled:
        return {index: _order(of_layer[kind]) for index, of_layer in scores.items()}
    shares = [of_layer[kind] / (of_layer[kind].sum() or 1) for of_layer in scores.values()]
    places = _order(torch.cat(shares)).split([len(values) for values in shares])
    return dict(zip(scores, places, strict=True))


def _order(values: Tensor) -> Tensor:
    import torch

    places = torch.empty(len(values), dtype=torch.double)
    places[torch.argsort(values, stable=True)] = (torch.arange(len(values), dtype=torch.double) + 0.5) / len(values)
    return places
