"""LoRAShear (Chen et al. 2023): redundant structures are taken to zero while LoRA's variables learn to do without them.

The source's third part, recovery from two sources, is a kind of recovery here, not of this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from reproducer.methods.parameters import Count, Positive
from reproducer.methods.registry import Decision, Request, register
from reproducer.methods.training import by_layer, train_steps, trained
from reproducer.models.architecture import layer_shape, linear_at
from reproducer.pruning.statistics import Element, GradientStatistic, Second

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reproducer.pruning.plan import Plan

    Scores = dict[int, dict[str, Tensor]]  # layer -> kind -> [units]

STAYS = -1  # in place of the period in which a structure is taken


@register("lorashear", label="LoRAShear", source="https://arxiv.org/abs/2310.18356", trains=True)
def lorashear(
    warmup_steps: Annotated[int, Field(ge=0)] = 20,
    periods: Count = 5,
    period_steps: Count = 12,
    batch: Count = 8,
    learning_rate: Positive = 1e-3,
    rank: Count = 8,
    alpha: Positive = 16,
    epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    criterion: Literal["first", "second"] = "first",
    score_samples: Count = 32,
    probe: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    unprunable: Annotated[float, Field(ge=0, lt=1)] = 0.1,
) -> Decision:
    """Redundant heads and channels go to zero in periods, by half-space projection, while LoRA on the rest learns.

    1. Knowledge distribution. Each node group (a layer's heads, or its channels) is cut alone, the share `probe` of the
       lowest scores, and the loss on the samples is measured. The share `unprunable` of the groups, those that cost
       most, is not cut; fewer are spared where the cut could not be reached otherwise.
    2. LoRA half-space projected gradient (LHSPG). Every weight `w` of the structures of the layers to prune becomes
       `w + γ·BA`; only A and B train, by the mean next-token loss, with Adam. After the warm-up all structures
       are scored by weight and gradient. The redundant ones, of both kinds and all layers together, are those of
       the lowest scores a parameter, as many as reach the requested share of parameters (of a structure ratio: the
       share that the same ratio of every layer's units would be). The lowest are taken first, in `periods` equal
       parts. At each of the K steps of its period a structure takes the trial step of its LoRA variables, and its
       effective weights are shrunk by `(K − k − 1)/(K − k)`, k = 0 … K − 1; if the result has left the half-space of
       what they were before the step, `⟨new, old⟩ < ε·‖old‖²`, it is set to zero and stays there. The factor of the
       period's last step is 0.

    The plan carries the effective weights of what stays, in the model's dtype. No code of the authors was published:
    all defaults are choices made here, as are the score a parameter, the shrinking factor and the equal parts.

    Args:
        warmup_steps: steps before structures are scored.
        periods, period_steps: P and K.
        batch: calibration samples a step.
        learning_rate: Adam's.
        rank, alpha: of the LoRA variables; γ is alpha / rank.
        epsilon: ε, from 0 on and below 1; the larger, the earlier a structure is set to zero.
        criterion: `first`, `Σ |w·ḡ|`, or `second`, `Σ w²·F`, of the effective weights.
        score_samples: how many of the samples score structures and measure node groups.
        probe, unprunable: see above.
    """
    settings: dict[str, Any] = dict(locals())  # nothing but the parameters so far

    def training(samples: int, layers: int) -> tuple[float, float, int]:
        scored = min(score_samples, samples)
        # each layer's two node groups are measured from that layer on; scores are taken twice
        return layers * scored, (warmup_steps + periods * period_steps) * batch + 2 * scored, batch

    return Decision(
        lambda request: cut_what_is_zero(request, settings),
        train=lambda request: Shearing(request, settings).run(),
        training=training,
    )


def cut_what_is_zero(request: Request, settings: Mapping[str, Any]) -> Plan:
    """The plan of a finished training, with the effective weights of what stays."""
    import torch

    state = trained(request.directory)
    variables = Variables(request, settings, state)
    kept: dict[str, dict[int, Tensor]] = {
        kind: {index: torch.nonzero(state[f"period/{index}.{kind}"] == STAYS).flatten() for index in request.layers}
        for kind in request.units(request.layers[0])
    }
    tensors = {}
    for (index, path), linear in variables.linears.items():
        stays = torch.zeros(variables.units(index, path), dtype=torch.bool)
        stays[kept[variables.kinds[path].name][index]] = True
        vectors = variables.per_vector(index, path, stays).nonzero().flatten().to(linear.weight.device)
        weight = variables.effective(index, path).index_select(variables.axes[path], vectors)
        tensors[f"{request.architecture.layers}.{index}.{path}.weight"] = weight.to(linear.weight.dtype).cpu()
    units = {kind: {index: values.tolist() for index, values in of_kind.items()} for kind, of_kind in kept.items()}
    return request.keep(units, tensors=tensors, scores=by_layer(request, state, "score/"))


class Variables:
    """LoRA's variables on all weights of the structures of some layers, and a factor on each structure.

    A structure's effective weights are `s·(w + γ·BA)`, biases of its rows `s·b`; s is 1 until it is taken.

    Attributes:
        state: `A/layer.path` [rank, inputs], `B/layer.path` [outputs, rank] and `scale/layer.kind` [units].
        linears: {(layer, path): module} of all member weights.
        axes: {path: axis that structures own}.
        kinds: {path: the kind whose structures own its vectors}.
        merged: whether the modules hold the effective weights at the moment.
    """

    def __init__(self, request: Request, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        self.architecture, self.state = request.architecture, state
        self.gamma = settings["alpha"] / settings["rank"]
        blocks = self.architecture.decoder_layers(request.model)
        self.axes = self.architecture.modules()
        self.linears = {(index, path): linear_at(blocks[index], path) for index in request.layers for path in self.axes}
        self.shapes = {index: layer_shape(blocks[index], self.architecture) for index in request.layers}
        self.kinds = {path: kind for kind in self.architecture.kinds for path in kind.modules()}
        self.merged = False

    def units(self, index: int, path: str) -> int:
        """How many units own the vectors of a weight."""
        return self.shapes[index].counts[self.kinds[path].name]

    def widths(self, index: int, path: str) -> list[int]:
        """Vectors a unit of each member that the weight holds, in the order in which they stand there."""
        members = [member for member in self.kinds[path].members if member.module == path]
        return [self.shapes[index].vectors_per_unit(member) for member in members]

    def per_vector(self, index: int, path: str, values: Tensor) -> Tensor:
        """A value of each unit [units], repeated for each row (column) of a weight that belongs to it, [vectors]."""
        import torch

        return torch.cat([values.repeat_interleave(width) for width in self.widths(index, path)])

    def per_unit(self, index: int, path: str, values: Tensor) -> Tensor:
        """Sums over the vectors of each unit in a weight, [units], of one number a vector."""
        widths, units = self.widths(index, path), self.units(index, path)
        parts = values.split([width * units for width in widths])
        return sum((part.view(units, -1).sum(1) for part in parts[1:]), parts[0].view(units, -1).sum(1))

    def factors(self, index: int, path: str, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """The factor of each row (column) of a weight, [vectors]; of another state than today's if there is one."""
        return self.per_vector(index, path, (state or self.state)[f"scale/{index}.{self.kinds[path].name}"])

    def effective(self, index: int, path: str, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """`s·(w + γ·BA)` of a weight in the dtype of the variables; of another state than today's if there is one."""
        weight = self.linears[index, path].weight.detach()
        a, b = ((state or self.state)[f"{name}/{index}.{path}"].detach().to(weight.device) for name in "AB")
        factors = self.factors(index, path, state).to(weight.device)
        return (weight.to(a.dtype) + self.gamma * (b @ a)) * (factors[:, None] if self.axes[path] == 0 else factors)

    def attach(self) -> None:
        """Let the modules compute with their effective weights. The hooks end with the model's training."""
        for (index, path), linear in self.linears.items():
            if self.axes[path] == 1:
                linear.register_forward_pre_hook(self._shrunk_inputs(index, path))
            linear.register_forward_hook(self._adapted_output(index, path))

    def _shrunk_inputs(self, index: int, path: str) -> Callable:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if self.merged:
                return None
            return (arguments[0] * self.factors(index, path).to(arguments[0].dtype), *arguments[1:])

        return hook

    def _adapted_output(self, index: int, path: str) -> Callable:
        a, b = self.state[f"A/{index}.{path}"], self.state[f"B/{index}.{path}"]

        def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if self.merged:
                return None
            inputs = arguments[0]
            output = output + self.gamma * (inputs @ a.to(inputs.dtype).T @ b.to(inputs.dtype).T)
            return output if self.axes[path] == 1 else output * self.factors(index, path).to(output.dtype)

        return hook

    @contextmanager
    def in_the_weights(self) -> Iterator[None]:
        """The modules hold effective weights inside, for what reads weights."""
        originals = {key: linear.weight.data for key, linear in self.linears.items()}
        try:
            for (index, path), linear in self.linears.items():
                linear.weight.data = self.effective(index, path).to(linear.weight.dtype)
            self.merged = True
            yield
        finally:
            self.merged = False
            for key, weight in originals.items():
                self.linears[key].weight.data = weight


class Shearing:
    """Both parts of the training; leaves the variables, factors and periods in the request's directory."""

    def __init__(self, request: Request, settings: Mapping[str, Any]) -> None:
        assert request.ids is not None
        self.request, self.settings, self.remove = request, settings, request.parameters_to_remove()
        self.statistic: GradientStatistic = Element(0) if settings["criterion"] == "first" else Second()
        self.samples = request.ids[: settings["score_samples"]]
        self.state = _initial_state(request, settings["rank"])
        self.variables = Variables(request, settings, self.state)

    def run(self) -> None:
        import torch

        from reproducer.models.loss import text_losses

        request, settings, state = self.request, self.settings, self.state
        self.variables.attach()
        trainable = [tensor for name, tensor in state.items() if name[:2] in ("A/", "B/")]
        optimizer = torch.optim.Adam(trainable, lr=settings["learning_rate"])
        request.remove_lowest(by_layer(request, state, "scale/"), self.remove)  # raises, before minutes are spent
        warmup, duration = settings["warmup_steps"], settings["period_steps"]

        def step(number: int, ids: Tensor) -> float:
            if number == warmup:
                self.split()
            loss = text_losses(request.model, ids).mean()
            optimizer.zero_grad()
            loss.backward()
            before = {name: tensor.detach().clone() for name, tensor in state.items()} if number >= warmup else {}
            optimizer.step()
            if before:
                period, k = divmod(number - warmup, duration)
                self.shrink(period, (duration - k - 1) / (duration - k), before)
            return float(loss.detach())

        steps = warmup + settings["periods"] * duration
        train_steps(
            request,
            state,
            optimizer,
            step,
            steps=steps,
            batch=settings["batch"],
            settings=settings,
            begin=self.mark_unprunable,
        )

    def scores(self) -> Scores:
        """Scores a parameter, of the effective weights."""
        from reproducer.pruning.collect import collect

        with self.variables.in_the_weights():
            statistics = collect(self.request.model, self.samples, self.request.layers, [self.statistic])
        scores = replace(self.request, statistics=statistics).scores(lambda vectors, _: vectors[self.statistic])
        return {
            index: {kind: values / self.request.unit_parameters(index)[kind] for kind, values in of_layer.items()}
            for index, of_layer in scores.items()
        }

    def mark_unprunable(self) -> None:
        """Mark the node groups `layer.kind` that cost most, as many as the share says and the cut allows."""
        costs, request = self.group_costs(self.scores()), self.request
        sizes = {
            f"{index}.{kind}": (units - 1) * request.unit_parameters(index)[kind]
            for index in request.layers
            for kind, units in request.units(index).items()
        }
        spare = sum(sizes.values()) - self.remove
        count = math.floor(self.settings["unprunable"] * len(sizes) + 1e-9)
        for group in sorted(costs, key=lambda group: (-costs[group], group))[:count]:
            spare -= sizes[group]
            if spare < 0:
                break
            self.state[f"unprunable/{group}"].fill_(True)

    def group_costs(self, scores: Scores) -> dict[str, float]:
        """The sum of the losses on the samples with each node group `layer.kind` cut alone.

        A group of one unit is left out: it cannot be cut.
        """
        from reproducer.models.walk import LayerWalk
        from reproducer.pruning.surgery import sliced_layer

        walk = LayerWalk(self.request.model, self.samples.shape[1])

        def cut(index: int, kind: str, stays: list[int], hidden: Tensor) -> Tensor:
            return walk.run(index, hidden, sliced_layer(walk.layers[index], walk.architecture, {kind: stays}))

        changes: dict[int, dict[str, Callable[[Tensor], Tensor]]] = {}
        for index, of_layer in scores.items():
            changes[index] = {}
            for kind, values in of_layer.items():
                count = max(1, math.floor(self.settings["probe"] * len(values) + 1e-9))
                stays = sorted(values.argsort(stable=True)[count:].tolist())
                if stays:
                    changes[index][f"{index}.{kind}"] = partial(cut, index, kind, stays)
        return walk.changed_losses(self.samples, changes)

    def split(self) -> None:
        """Split structures into important and redundant ones, and the redundant ones into periods."""
        state, scores = self.state, self.scores()
        prunable: Scores = {
            index: {kind: values for kind, values in of_layer.items() if not state[f"unprunable/{index}.{kind}"]}
            for index, of_layer in scores.items()
        }
        kept, gone = self.request.remove_lowest(prunable, self.remove), []
        for index, of_layer in scores.items():
            for kind, values in of_layer.items():
                state[f"score/{index}.{kind}"].copy_(values)
                if kind in prunable[index]:
                    stays = set(kept[kind][index])
                    gone += [(v, index, kind, unit) for unit, v in enumerate(values.tolist()) if unit not in stays]
        for rank, (_, index, kind, unit) in enumerate(sorted(gone)):
            state[f"period/{index}.{kind}"][unit] = rank * self.settings["periods"] // len(gone)

    def shrink(self, period: int, factor: float, before: Mapping[str, Tensor]) -> None:
        """Shrink what is taken in this period, and zero what has left the half-space of its weights `before`."""
        state, variables, taken = self.state, self.variables, {}
        for index, of_layer in by_layer(self.request, state, "scale/").items():
            for kind, scale in of_layer.items():
                taken[index, kind] = (state[f"period/{index}.{kind}"] == period).to(scale.device)
                scale[taken[index, kind]] *= factor
        dots: dict[tuple[int, str], Tensor] = {}
        norms: dict[tuple[int, str], Tensor] = {}
        for index, path in variables.linears:
            group, along = (index, variables.kinds[path].name), 1 - variables.axes[path]
            if taken[group].any():
                new, old = variables.effective(index, path), variables.effective(index, path, before)
                dots[group] = dots.get(group, 0) + variables.per_unit(index, path, (new * old).sum(along))
                norms[group] = norms.get(group, 0) + variables.per_unit(index, path, old.square().sum(along))
        for (index, kind), values in dots.items():
            outside = (values < self.settings["epsilon"] * norms[index, kind]) & taken[index, kind]
            state[f"scale/{index}.{kind}"][outside] = 0


def _initial_state(request: Request, rank: int) -> dict[str, Tensor]:
    """The state in front of the first step: A random as in LoRA, B zero, nothing taken."""
    import torch

    from reproducer.models.training import derived_seed

    generator = torch.Generator().manual_seed(derived_seed(request.seed, "lorashear"))
    blocks, state = request.architecture.decoder_layers(request.model), {}
    for index in request.layers:
        for path in request.architecture.modules():
            weight = linear_at(blocks[index], path).weight
            wide = torch.promote_types(weight.dtype, torch.float32)
            outputs, inputs = weight.shape
            a = (torch.rand(rank, inputs, generator=generator, dtype=wide) * 2 - 1) / math.sqrt(inputs)
            state[f"A/{index}.{path}"] = a.to(weight.device).requires_grad_()
            state[f"B/{index}.{path}"] = torch.zeros(outputs, rank, dtype=wide, device=weight.device).requires_grad_()
        for kind, units in request.units(index).items():
            state[f"scale/{index}.{kind}"] = torch.ones(units, dtype=wide, device=weight.device)
            state[f"score/{index}.{kind}"] = torch.zeros(units, dtype=wide)
            state[f"period/{index}.{kind}"] = torch.full((units,), STAYS, dtype=torch.int32)
            state[f"unprunable/{index}.{kind}"] = torch.zeros((), dtype=torch.bool)
    return state
