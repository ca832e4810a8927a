"""FLAP (An et al. 2024): what fluctuates least goes, and biases take over its mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from reproducer.methods.registry import Decision, Request, register
from reproducer.pruning.statistics import InputMean, InputNorm, InputVariance, MeanMagnitude, Power, Statistic

if TYPE_CHECKING:
    from torch import Tensor

    from reproducer.pruning.plan import Plan

    Features = Mapping[Statistic, Tensor]  # of one projection, each [inputs]


@register("flap", label="FLAP", source="https://arxiv.org/abs/2312.11983", min_samples=2)
def flap(metric: Literal["wifv", "ifv", "wifn"] = "wifv", compensate: bool = True) -> Decision:
    """Inputs of the output and down projections by their fluctuation; biases compensate for what goes.

    With `metric` m_j of each input j, and that of the attention squared, both are standardised within their layer
    (minus mean, over standard deviation, which is that of a sample as in the authors' code). A head's value is the
    mean over its inputs, a key-value group's over those of all its query heads. Heads and channels of all layers are
    ranked together, each weighing as many parameters as it has, and go until the requested cut is reached (see
    `allocation.remove_lowest`; one of each kind stays in a layer). So the cut's `scope` and `heads` play no part.

    `ratio` counts all parameters, the added biases among those that stay. A `structure_ratio` stands for as many
    parameters as it removes where every layer loses the same share of its heads and channels.

    Args:
        metric: `wifv`, `Var(x_j)·Σ_i W_ij²`; `ifv`, `Var(x_j)`; or `wifn`, the mean over i of `|W_ij|·‖x_j‖₂`, which
            is Wanda's. `x_j` is the input over all calibration tokens.
        compensate: whether both projections of every layer to prune get the bias `W[:, removed] · mean(x_removed)`,
            added to the one that they have. It keeps the mean of their outputs over the calibration tokens, as long as
            their inputs are those of the whole model.
    """
    factors: tuple[Statistic, ...] = {
        "wifv": (InputVariance(), Power(2)),
        "ifv": (InputVariance(),),
        "wifn": (InputNorm(), MeanMagnitude()),
    }[metric]

    def decide(request: Request) -> Plan:
        scores = standardised(request, factors)
        remove = request.parameters_to_remove()
        if compensate:
            remove += _biases_to_add(request)
        plan = request.keep(request.remove_lowest(scores, remove), scores=scores)
        if compensate:
            plan.tensors = _compensation(request, plan)
        return plan

    return Decision(decide, needs=(*factors, InputMean()) if compensate else factors)


def standardised(request: Request, factors: tuple[Statistic, ...]) -> dict[int, dict[str, Tensor]]:
    """{layer: {kind: [units]}} of the metric that is the product of `factors`, comparable over layers and kinds."""
    scores: dict[int, dict[str, Tensor]] = {}
    for index in request.layers:
        scores[index] = {}
        for kind, units in request.units(index).items():
            features: Features = request.statistics[index][request.architecture.output(kind)]
            values = features[factors[0]].double()
            for factor in factors[1:]:
                values = values * features[factor]
            if request.architecture.kind(kind).attends:
                values = values.square()
            deviation = values.std() if len(values) > 1 else values.new_zeros(())
            standard = (values - values.mean()) / (deviation if deviation > 0 else 1)
            scores[index][kind] = standard.view(units, -1).mean(1)  # units own inputs side by side
    return scores


def _biases_to_add(request: Request) -> int:
    """Parameters of the biases that output and down projections do not have yet."""
    projections = [request.output(index, kind)[1] for index in request.layers for kind in request.units(index)]
    return sum(projection.out_features for projection in projections if projection.bias is None)


def _compensation(request: Request, plan: Plan) -> dict[str, Tensor]:
    """{name: bias [outputs]} of the output and down projections, with the mean effect of the inputs that go."""
    import torch

    tensors: dict[str, Tensor] = {}
    for index in request.layers:
        for kind, units in request.units(index).items():
            name, projection = request.output(index, kind)
            mean = request.statistics[index][request.architecture.output(kind)][InputMean()]
            gone = torch.ones(units, dtype=torch.bool)
            gone[plan.kept[kind][index]] = False
            columns = gone.repeat_interleave(len(mean) // units).nonzero().flatten()
            weight = projection.weight.detach().index_select(1, columns.to(projection.weight.device))
            bias = weight.cpu().to(mean.dtype) @ mean[columns]
            if projection.bias is not None:
                bias += projection.bias.detach().cpu().to(bias.dtype)
            tensors[f"{name}.bias"] = bias
    return tensors
