"""A method that removes whole layers: those without which the loss on the calibration samples is least.

The idea is Shortened LLaMA's (Kim et al. 2024, https://arxiv.org/abs/2402.02834).
"""

import math

from reproducer.methods.registry import Decision, Request, register


@register("my-layers", label="Whole layers", source="https://arxiv.org/abs/2402.02834")
def my_layers(first: int = 0) -> Decision:
    """The loss without each layer; layers in front of `first` stay."""

    def decide(request: Request):
        import torch

        from reproducer.models.walk import LayerWalk

        walk = LayerWalk(request.model, request.ids.shape[1])

        def loss_without(layer: int) -> float:
            hidden = walk.embed(request.ids)
            for index in range(len(walk.layers)):
                if index != layer:
                    hidden = walk.run(index, hidden)
            return float(walk.losses(hidden, request.ids).double().mean())

        with torch.no_grad():
            losses = {index: loss_without(index) for index in request.layers if index >= first}
        count = how_many(request, walk.layers)
        return request.keep(removed_layers=sorted(losses, key=losses.get)[:count])

    return Decision(decide)


def how_many(request: Request, layers) -> int:
    """Layers to remove: nearest to the ratio of all parameters, or the ratio of the layers that may be pruned."""
    from reproducer.models.architecture import parameter_count

    if request.cut.ratio is None:
        return math.floor(request.cut.structure_ratio * len(request.layers) + 1e-9)
    return round(request.cut.ratio * parameter_count(request.model) / parameter_count(layers[0]))
