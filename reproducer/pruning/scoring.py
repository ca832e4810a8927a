"""From statistics of vectors to scores of structures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from reproducer.errors import UserError
from reproducer.models.architecture import layer_shape
from reproducer.models.declaration import Architecture
from reproducer.pruning.statistics import Statistics, Vectors

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

Score = Callable[[Vectors, "Generator"], "Tensor"]  # one member's statistics [vectors] -> scores [vectors]


def structure_scores(
    model: nn.Module,
    architecture: Architecture,
    statistics: Statistics,
    score: Score,
    generator: Generator,
    members: Literal["all", "outputs"] = "all",
) -> dict[int, dict[str, Tensor]]:
    """Scores [units] of every layer's structures: the sum over their member vectors of what `score` gives each.

    Args:
        members: all of a structure's, or those of the output and the down projection alone (columns).
    """
    import torch

    layers = architecture.decoder_layers(model)
    scores: dict[int, dict[str, Tensor]] = {}
    for index, of_layer in statistics.items():
        shape = layer_shape(layers[index], architecture)
        scores[index] = {}
        for kind in architecture.kinds:
            parts = []
            for member in kind.members:
                if members == "all" or member.axis == 1:
                    span = shape.span(kind, member)
                    vectors = {statistic: values[span] for statistic, values in of_layer[member.module].items()}
                    parts.append(score(vectors, generator).view(shape.counts[kind.name], -1).sum(1))
            scores[index][kind.name] = torch.stack(parts).sum(0)
    return scores


def check_samples(ids: Tensor | None, model: nn.Module, least: int = 1) -> None:
    """UserError unless `ids` is a LongTensor [samples, length] of token ids that the model can take.

    Args:
        least: samples that the method needs.
    """
    import torch

    if ids is None:
        raise UserError("this method needs calibration samples", "pass calibration=LongTensor [samples, length]")
    if not isinstance(ids, torch.Tensor):
        message = f"calibration is a {type(ids).__name__}"
        hint = "it is a LongTensor [samples, length]: tokenizer(texts, …, return_tensors='pt').input_ids, say"
        raise UserError(message, hint)
    if ids.dtype != torch.long or ids.dim() != 2 or 0 in ids.shape or ids.shape[1] < 2:
        raise UserError(
            f"calibration has dtype {ids.dtype} and shape {tuple(ids.shape)}",
            "it is a LongTensor [samples, length] of at least one sample and two tokens",
        )
    if len(ids) < least:
        raise UserError(f"this method needs {least} calibration samples or more, not {len(ids)}")
    config: Any = model.config
    if int(ids.min()) < 0 or int(ids.max()) >= config.vocab_size:
        raise UserError(f"calibration holds token ids outside the model's vocabulary of {config.vocab_size}")
    if ids.shape[1] > config.max_position_embeddings:
        raise UserError(f"samples of {ids.shape[1]} tokens; the model's limit is {config.max_position_embeddings}")
