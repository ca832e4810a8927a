"""`prune`: pick a method by name, score, allocate, and return the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from reproducer.methods.registry import get

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reproducer.pruning.plan import Plan
    from reproducer.pruning.statistics import Limits


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
    from reproducer.models.architecture import architecture_of
    from reproducer.pruning.allocation import Allocation
    from reproducer.pruning.scoring import check_layers, check_samples, make_plan, structure_scores
    from reproducer.pruning.statistics import collect

    allocation = Allocation(structure_ratio, ratio, scope, heads, round_to)
    chosen = get(method)
    rule = chosen.make_rule(parameters)
    architecture = architecture_of(model)
    indices = check_layers(layers, len(architecture.decoder_layers(model)))
    if chosen.calibrated:
        check_samples(calibration, model)
    statistics = collect(model, calibration if chosen.calibrated else None, indices, rule.needs, limits)
    scores = structure_scores(model, architecture, statistics, rule.score, seed)
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
