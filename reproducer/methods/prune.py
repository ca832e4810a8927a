"""`prune`: pick a method by name, score, allocate, and return the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.methods.registry import Rule, get
from reproducer.models.architecture import KINDS, Architecture, Kind, architecture_of, layer_shape
from reproducer.pruning.allocation import Allocation, allocate, default_layers
from reproducer.pruning.plan import Plan, units_of
from reproducer.pruning.statistics import Limits, Statistics, collect


def prune(
    model: nn.Module,
    method: str,
    calibration: Tensor | None = None,
    *,
    structure_ratio: float | None = None,
    ratio: float | None = None,
    layers: Sequence[int] | None = None,
    scope: Literal["local", "global"] = "local",
    heads: Literal["auto", "local", "pooled"] = "auto",
    round_to: int = 1,
    seed: int = 0,
    limits: Limits | None = None,
    **parameters: Any,
) -> Plan:
    """Decide which heads and MLP channels of `model` stay. The model's weights, flags, mode and hooks stay as found.

    Args:
        model: a causal language model of the LLaMA family, with or without grouped-query attention.
        method: a registered name (`reproduce methods` lists them).
        calibration: LongTensor [samples, length] of token ids, for methods that need it.
        structure_ratio: fraction of the heads and channels of each pruned layer to remove (LLM-Pruner's ratio), or
        ratio: fraction of all parameters to remove, reached within half a point. Exactly one of the two.
        layers: indices of the layers to prune; by default LLM-Pruner's 4 to 29 of 32, in proportion.
        scope: `local`, the same number from every layer, or `global`, ranked over all layers.
        heads: `local`, `pooled` over the layers, or `auto` (pooled for grouped-query attention); see `allocation`.
        round_to: kept channels a layer are multiples of this, for example 64.
        seed: for methods that draw at random.
        limits: memory that the statistics may take.
        parameters: the method's own.

    Raises:
        UserError: an unknown method or parameter, a bad ratio, layers out of range, missing or unfit samples.
    """
    allocation = Allocation(structure_ratio, ratio, scope, heads, round_to)
    chosen = get(method)
    rule = chosen.make_rule(parameters)
    architecture = architecture_of(model)
    indices = check_layers(layers, len(architecture.decoder_layers(model)))
    if chosen.calibrated:
        check_samples(calibration, model)
    statistics = collect(model, calibration if chosen.calibrated else None, indices, rule.needs, limits)
    scores = structure_scores(model, architecture, statistics, rule, seed)
    settings = {
        "structure_ratio": structure_ratio,
        "ratio": ratio,
        "scope": scope,
        "heads": heads,
        "round_to": round_to,
        "seed": seed,
        "parameters": parameters,
    }
    return make_plan(model, architecture, scores, allocation, chosen.name, settings)


def structure_scores(
    model: nn.Module, architecture: Architecture, statistics: Statistics, rule: Rule, seed: int = 0
) -> dict[int, dict[Kind, Tensor]]:
    """Scores [units] of every layer's structures: the rule's scores of their member vectors, summed."""
    generator = torch.Generator().manual_seed(seed)
    layers = architecture.decoder_layers(model)
    scores: dict[int, dict[Kind, Tensor]] = {}
    for index, of_layer in statistics.items():
        shape = layer_shape(layers[index])
        scores[index] = {}
        for kind in KINDS:
            parts = [
                rule.score(of_layer[member.module], generator).view(shape.units(kind), -1).sum(1)
                for member in architecture.members(kind)
            ]
            scores[index][kind] = torch.stack(parts).sum(0)
    return scores


def make_plan(
    model: nn.Module,
    architecture: Architecture,
    scores: Mapping[int, Mapping[Kind, Tensor]],
    allocation: Allocation,
    method: str,
    settings: dict[str, Any],
) -> Plan:
    """The plan that keeps the best-scored units."""
    kept = allocate(model, architecture, scores, allocation)
    return Plan(units_of(model, architecture), kept["heads"], kept["channels"], method, settings, scores)


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
