"""Shortened LLaMA (Kim et al. 2024): whole layers go, the others stay as they are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from reproducer.errors import UserError
from reproducer.methods.registry import Decision, Request, register
from reproducer.models.architecture import parameter_count
from reproducer.pruning.statistics import Element

if TYPE_CHECKING:
    from reproducer.pruning.plan import Plan


Layers = Annotated[int, Field(ge=0)]


@register("shortened-llama", label="Shortened LLaMA", source="https://arxiv.org/abs/2402.02834")
def shortened_llama(
    criterion: Literal["ppl", "taylor"] = "ppl", keep_first: Layers | None = None, keep_last: Layers | None = None
) -> Decision:
    """Whole layers, by the perplexity without each or by their Taylor scores.

    Each layer is judged once, on the whole model (one-shot, as in the source), and the layers of the lowest values go:
    as many as come nearest to the ratio of all parameters, or floor(ratio · layers that may go) for a structure ratio;
    in either case at least one. Layers are coarse (3 % of LLaMA-7B each), so the ratio may be missed by more than half
    a point.

    Which layers may go: those that the request names (`prune.layers`), less the first `keep_first` and the last
    `keep_last` of the whole model. With LLM-Pruner's layers 4 to 29 of 32 the two are the same layers.

    Args:
        criterion: `ppl`, the perplexity on the calibration samples of the model without the layer; or `taylor`,
            `Σ |w·ḡ|` over the layer's projections (the authors' code adds the terms of the norms' weights).
        keep_first, keep_last: layers at either end that never go. By default 4 and 2, as in the source for models of 30
            layers and more; in those of fewer than 16 a quarter and an eighth of the layers, rounded down.
    """

    def decide(request: Request) -> Plan:
        count = len(request.architecture.decoder_layers(request.model))
        first = min(4, count // 4) if keep_first is None else keep_first
        last = min(2, count // 8) if keep_last is None else keep_last
        candidates = [index for index in request.layers if first <= index < count - last]
        if not candidates or count == 1:
            raise UserError(
                f"shortened-llama may remove none of the {count} layers: of layers {request.layers[0]} to "
                f"{request.layers[-1]} the first {first} and the last {last} of the model stay",
                "choose a smaller keep_first or keep_last, or other layers (prune.layers)",
            )
        values = _taylor(request, candidates) if criterion == "taylor" else _losses_without(request, candidates)
        return request.keep(removed_layers=_lowest(request, values))

    return Decision(decide, needs=(Element(0),) if criterion == "taylor" else ())


def _losses_without(request: Request, candidates: list[int]) -> dict[int, float]:
    """Mean next-token loss on the samples without each layer, the logarithm of the perplexity."""
    from reproducer.models.walk import LayerWalk

    assert request.ids is not None
    samples, length = request.ids.shape
    walk = LayerWalk(request.model, length)
    losses = walk.changed_losses(request.ids, {index: {str(index): lambda hidden: hidden} for index in candidates})
    for index, loss in losses.items():
        if not math.isfinite(loss):
            raise UserError(
                f"the loss without layer {index} is {loss}",
                "load the model in bfloat16 or float32, or use other samples; or the model itself is damaged",
            )
    return {int(index): loss / (samples * (length - 1)) for index, loss in losses.items()}


def _taylor(request: Request, candidates: list[int]) -> dict[int, float]:
    """`Σ |w·ḡ|` over all weights of a layer's projections, each of them once."""
    return {
        index: sum(
            float(values.double().sum())
            for of_module in request.statistics[index].values()
            for values in of_module.values()
        )
        for index in candidates
    }


def _lowest(request: Request, values: dict[int, float]) -> list[int]:
    """The layers that go: of the lowest values, as many as the cut asks for.

    Raises:
        UserError: fewer may go.
    """
    layers, total = request.architecture.decoder_layers(request.model), parameter_count(request.model)
    order = sorted(values, key=lambda index: (values[index], index))
    if request.cut.ratio is None:
        assert request.cut.structure_ratio is not None
        return order[: max(1, math.floor(request.cut.structure_ratio * len(order) + 1e-9))]
    target, removed, counts = request.cut.ratio * total, 0, []
    for index in order[: len(layers) - 1]:  # one has to stay
        removed += parameter_count(layers[index])
        counts.append(removed)
    if counts[-1] < target and target - counts[-1] > parameter_count(layers[order[-1]]) / 2:
        raise UserError(
            f"a ratio of {request.cut.ratio} cannot be reached: the {len(counts)} layers that may go hold "
            f"{counts[-1] / total:.1%} of all parameters",
            "choose a smaller keep_first or keep_last, more layers (prune.layers) or a smaller ratio",
        )
    return order[: 1 + min(range(len(counts)), key=lambda place: abs(counts[place] - target))]
