"""A method that changes weights beside cutting: units that fluctuate least go, and a bias takes over their mean.

The idea is FLAP's (An et al. 2024, https://arxiv.org/abs/2312.11983): an input of the output or down projection that is
nearly constant can be replaced by its mean, whose effect is the bias `W[:, removed] · mean(x[removed])`.
"""

from reproducer.methods.registry import Decision, Request, register
from reproducer.pruning.statistics import InputMean, InputVariance, Power


@register("my-bias", label="Fluctuation with bias", source="https://arxiv.org/abs/2312.11983")
def my_bias() -> Decision:
    """`Var(x_j) · Σ_i W_ij²` of each input j; a bias compensates for what goes."""
    means, variances, squares = InputMean(), InputVariance(), Power(2)

    def decide(request: Request):
        scores = request.scores(lambda vectors, _: vectors[variances] * vectors[squares], members="outputs")
        plan = request.plan(scores)  # as many units of each layer as the requested cut leaves
        layers = request.architecture.decoder_layers(request.model)
        for index in plan.layers:
            for kind in ("heads", "channels"):
                path = request.architecture.output(kind)  # the projection that the units feed
                name = f"{request.architecture.layers}.{index}.{path}.bias"
                mean = request.statistics[index][path][means]
                plan.tensors[name] = compensation(layers[index].get_submodule(path), plan, index, kind, mean)
        return plan

    return Decision(decide, needs=(means, variances, squares))


def compensation(projection, plan, index, kind, mean):
    """The projection's bias with the mean effect of the inputs that go, [outputs]; it replaces the old one."""
    import torch

    gone = torch.ones(plan.units[index][kind], dtype=torch.bool)
    gone[plan.kept[kind][index]] = False
    gone = gone.repeat_interleave(len(mean) // len(gone))  # units own inputs side by side
    bias = projection.weight[:, gone].to(mean.dtype).cpu() @ mean[gone]
    return bias if projection.bias is None else bias + projection.bias.to(bias.dtype).cpu()
