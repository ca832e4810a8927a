"""A cut that ranks heads and channels of all layers together, so that layers end uneven."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.models.architecture import KINDS, Architecture, Kind, parameter_count, unit_parameters
from reproducer.pruning.allocation import TOLERANCE, Kept


def cut_together(
    model: nn.Module,
    architecture: Architecture,
    scores: Mapping[int, Mapping[Kind, Tensor]],
    remove: int,
    round_to: int = 1,
) -> Kept:
    """The units that stay when those of the lowest scores go, of both kinds and all layers, until `remove` is reached.

    A head that is larger than what is still to go is passed over: the channels behind it make up for it. At least one
    unit of each kind stays in each layer.

    Args:
        scores: {layer: {kind: [units]}}, comparable over layers and kinds; a kind of a layer that is absent is not cut.
        remove: parameters to take away; 0 keeps all.
        round_to: a layer that loses channels keeps a multiple of this; they go in blocks, ranked by their mean score.

    Returns:
        {kind: {layer: sorted units that stay}} of all that has a score.

    Raises:
        UserError: the units hold too little, or the nearest cut misses `remove` by more than half a point of all
            parameters.
    """
    layers, total = architecture.decoder_layers(model), parameter_count(model)
    kept: dict[Kind, dict[int, set[int]]] = {kind: {} for kind in KINDS}
    blocks = []
    for index, of_layer in scores.items():
        for kind, values in of_layer.items():
            kept[kind][index] = set(range(len(values)))
            cost = unit_parameters(layers[index], architecture, kind)
            for place, (score, units) in enumerate(_blocks(values, round_to if kind == "channels" else 1)):
                blocks.append((score, index, kind, place, units, cost * len(units)))
    most = sum(block[-1] for block in blocks)
    if most < remove - TOLERANCE * total:
        raise UserError(
            f"{remove / total:.1%} of all parameters cannot be removed: what may be cut of layers {min(scores)} to "
            f"{max(scores)} holds {most / total:.1%} at the most",
            "prune more layers (prune.layers) or choose a smaller ratio",
        )
    left, stay = remove, []
    for block in sorted(blocks, key=lambda block: block[:4]):
        _, index, kind, _, units, cost = block
        if cost <= left:
            kept[kind][index] -= set(units)
            left -= cost
        else:
            stay.append(block)
    nearer = next((block for block in stay if block[-1] < 2 * left), None)  # one more, if that misses by less
    if nearer is not None:
        _, index, kind, _, units, cost = nearer
        kept[kind][index] -= set(units)
        left -= cost
    if abs(left) > TOLERANCE * total:
        raise UserError(
            f"{remove / total:.2%} of all parameters cannot be removed within {TOLERANCE:.1%}: "
            f"the nearest cut removes {(remove - left) / total:.2%}",
            "the units are too coarse: set a smaller round_to",
        )
    return {kind: {index: sorted(units) for index, units in of_kind.items()} for kind, of_kind in kept.items()}


def _blocks(values: Tensor, step: int) -> Iterator[tuple[float, list[int]]]:
    """Units that go together and their mean score, in ascending order; the last ones, which stay, are left out."""
    scores: list[float] = values.double().tolist()
    order = sorted(range(len(scores)), key=lambda unit: (scores[unit], unit))
    start, stop = 0, len(order) % step
    while stop < len(order):
        if stop > start:
            yield math.fsum(scores[unit] for unit in order[start:stop]) / (stop - start), order[start:stop]
        start, stop = stop, stop + step
