"""From statistics of member vectors to scores of structures, and on to a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.models.architecture import KINDS, Architecture, Kind, layer_shape
from reproducer.pruning.allocation import default_layers
from reproducer.pruning.statistics import Statistics, Vectors

Score = Callable[[Vectors, torch.Generator], Tensor]  # one member's statistics [vectors] -> scores [vectors]


def structure_scores(
    model: nn.Module,
    architecture: Architecture,
    statistics: Statistics,
    score: Score,
    generator: torch.Generator,
    members: Literal["all", "outputs"] = "all",
) -> dict[int, dict[Kind, Tensor]]:
    """Scores [units] of every layer's structures: the sum over their member vectors of what `score` gives each.

    Args:
        members: all of a structure's, or those of the output and down projections alone (columns).
    """
    layers = architecture.decoder_layers(model)
    scores: dict[int, dict[Kind, Tensor]] = {}
    for index, of_layer in statistics.items():
        shape = layer_shape(layers[index])
        scores[index] = {}
        for kind in KINDS:
            parts = [
                score(of_layer[member.module], generator).view(shape.units(kind), -1).sum(1)
                for member in architecture.members(kind)
                if members == "all" or member.axis == 1
            ]
            scores[index][kind] = torch.stack(parts).sum(0)
    return scores


def check_layers(layers: Sequence[int] | None, count: int) -> list[int]:
    """Sorted layer indices; the protocol's share of them for None. UserError if one is out of range."""
    indices = sorted(default_layers(count) if layers is None else set(layers))
    if not indices or indices[0] < 0 or indices[-1] >= count:
        given = f"{indices[0]} to {indices[-1]}" if indices else "none"
        raise UserError(f"layers to prune: {given}; the model has layers 0 to {count - 1}")
    return indices


def check_samples(ids: Tensor | None, model: nn.Module) -> None:
    """UserError unless `ids` is a LongTensor [samples, length] of token ids that the model can take."""
    if ids is None:
        raise UserError("this method needs calibration samples", "pass calibration=LongTensor [samples, length]")
    if ids.dtype != torch.long or ids.dim() != 2 or 0 in ids.shape or ids.shape[1] < 2:
        raise UserError(
            f"calibration has dtype {ids.dtype} and shape {tuple(ids.shape)}",
            "it is a LongTensor [samples, length] of at least one sample and two tokens",
        )
    config: Any = model.config
    if int(ids.min()) < 0 or int(ids.max()) >= config.vocab_size:
        raise UserError(f"calibration holds token ids outside the model's vocabulary of {config.vocab_size}")
    if ids.shape[1] > config.max_position_embeddings:
        raise UserError(f"samples of {ids.shape[1]} tokens; the model's limit is {config.max_position_embeddings}")
