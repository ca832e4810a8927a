"""LoRAShear (Chen et al. 2023): redundant structures are taken to zero while LoRA's variables learn to do without them.

The source's third part, recovery from two sources, is a kind of recovery here, not of this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from reproducer.errors import UserError
from reproducer.methods.parameters import POSITIVE, check_number, whole_from
from reproducer.methods.registry import Decision, Request, TrainingJob, register
from reproducer.methods.training import text_loss, train_steps, trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reproducer.models.architecture import Architecture, Kind
    from reproducer.pruning.plan import Plan
    from reproducer.pruning.statistics import GradientStatistic

KINDS: tuple[Kind, Kind] = ("heads", "channels")  # as in models.architecture, which loads torch
STAYS = -1  # in place of the period in which a structure is taken


@register("lorashear", label="LoRAShear", source="https://arxiv.org/abs/2310.18356", trains=True)
def lorashear(
    warmup_steps: int = 20,
    periods: int = 5,
    period_steps: int = 12,
    batch: int = 8,
    learning_rate: float = 1e-3,
    rank: int = 8,
    alpha: float = 16,
    epsilon: float = 0.0,
    criterion: Literal["first", "second"] = "first",
    score_samples: int = 32,
    probe: float = 0.2,
    unprunable: float = 0.1,
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
    from reproducer.pruning.statistics import Element, Second

    settings: dict[str, Any] = {
        "warmup_steps": warmup_steps,
        "periods": periods,
        "period_steps": period_steps,
        "batch": batch,
        "rank": rank,
        "score_samples": score_samples,
        "learning_rate": learning_rate,
        "alpha": alpha,
        "epsilon": epsilon,
        "probe": probe,
        "unprunable": unprunable,
        "criterion": criterion,
    }
    _check(settings)
    statistic = Element(0) if criterion == "first" else Second()

    def train(job: TrainingJob) -> None:
        shear(job, settings, statistic)

    def decide(request: Request) -> Plan:
        import torch

        state = trained(request.trained)
        variables = Variables(request.model, request.architecture, request.layers, rank, alpha, state)
        kept: dict[str, dict[int, Tensor]] = {
            kind: {index: torch.nonzero(state[f"period/{index}.{kind}"] == STAYS).flatten() for index in request.layers}
            for kind in KINDS
        }
        tensors = {}
        for (index, path), linear in variables.linears.items():
            vectors = variables.vectors(index, path, kept).to(linear.weight.device)
            weight = variables.effective(index, path).index_select(variables.axes[path], vectors)
            tensors[f"{request.architecture.layers}.{index}.{path}.weight"] = weight.to(linear.weight.dtype).cpu()
        return request.keep(
            {index: units.tolist() for index, units in kept["heads"].items()},
            {index: units.tolist() for index, units in kept["channels"].items()},
            tensors=tensors,
            scores=_by_layer(state, "score", request.layers),
        )

    def training(samples: int, layers: int) -> tuple[float, float, int]:
        scored = min(score_samples, samples)
        # each layer's two node groups are measured from that layer on; scores are taken twice
        return layers * scored, (warmup_steps + periods * period_steps) * batch + 2 * scored, batch

    return Decision(decide, train=train, training=training)


ALLOWED = {
    "warmup_steps": whole_from(0),
    **dict.fromkeys(("periods", "period_steps", "batch", "rank", "score_samples"), whole_from(1)),
    **dict.fromkeys(("learning_rate", "alpha"), POSITIVE),
    "probe": ("a share above 0 and below 1", lambda value: 0 < value < 1),
    **dict.fromkeys(("epsilon", "unprunable"), ("a number from 0 on and below 1", lambda value: 0 <= value < 1)),
}


def _check(settings: Mapping[str, Any]) -> None:
    for name, allowed in ALLOWED.items():
        check_number("lorashear", name, settings[name], *allowed)
    if settings["criterion"] not in ("first", "second"):
        raise UserError(f'lorashear\'s criterion is {settings["criterion"]!r}; it is "first" or "second"')


class Variables:
    """LoRA's variables on all weights of the structures of some layers, and a factor on each structure.

    A structure's effective weights are `s·(w + γ·BA)`, biases of its rows `s·b`; s is 1 until it is taken.

    Args:
        rank, alpha: γ is alpha / rank.
        state: `A/layer.path` [rank, inputs], `B/layer.path` [outputs, rank] and `scale/layer.kind` [units].

    Attributes:
        linears: {(layer, path): module} of all member weights.
        axes: {path: axis that structures own}.
    """

    def __init__(
        self,
        model: nn.Module,
        architecture: Architecture,
        layers: list[int],
        rank: int,
        alpha: float,
        state: Mapping[str, Tensor],
    ) -> None:
        from reproducer.models.architecture import layer_shape, linear_at

        blocks = architecture.decoder_layers(model)
        self.architecture, self.state, self.gamma = architecture, state, alpha / rank
        self.axes = architecture.modules()
        self.linears = {(index, path): linear_at(blocks[index], path) for index in layers for path in self.axes}
        self.shapes = {index: layer_shape(blocks[index], architecture) for index in layers}
        self.kinds: dict[str, Kind] = {path: "heads" for path in architecture.modules("heads")}
        self.kinds |= {path: "channels" for path in architecture.modules("channels")}
        self.watching = True

    def widths(self, index: int, path: str) -> list[int]:
        """Vectors a unit of each member that the weight holds, in the order in which they stand there."""
        members = self.architecture.members(self.kinds[path])
        return [self.shapes[index].vectors_per_unit(member) for member in members if member.module == path]

    def vectors(self, index: int, path: str, units: Mapping[str, Mapping[int, Tensor]]) -> Tensor:
        """Which rows (columns) of a weight belong to the given units {kind: {layer: units}}."""
        import torch

        shape, kind = self.shapes[index], self.kinds[path]
        own = torch.zeros(shape.units(kind), dtype=torch.bool)
        own[units[kind][index]] = True
        return torch.cat([own.repeat_interleave(width) for width in self.widths(index, path)]).nonzero().flatten()

    def factors(self, index: int, path: str, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """The factor of each row (column) of a weight, [vectors]."""
        import torch

        scale = (self.state if state is None else state)[f"scale/{index}.{self.kinds[path]}"]
        return torch.cat([scale.repeat_interleave(width) for width in self.widths(index, path)])

    def effective(self, index: int, path: str, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """`s·(w + γ·BA)` of a weight in the dtype of the variables; of another state than today's if given."""
        state = self.state if state is None else state
        weight = self.linears[index, path].weight.detach()
        a, b = (state[f"{name}/{index}.{path}"].detach().to(weight.device) for name in "AB")
        factors = self.factors(index, path, state).to(weight.device)
        return (weight.to(a.dtype) + self.gamma * (b @ a)) * (factors[:, None] if self.axes[path] == 0 else factors)

    def by_unit(self, index: int, path: str, values: Tensor) -> Tensor:
        """Sums over the vectors of each unit in a weight, [units], of one number a vector."""
        widths, units = self.widths(index, path), self.shapes[index].units(self.kinds[path])
        parts = values.split([width * units for width in widths])
        return sum((part.view(units, -1).sum(1) for part in parts[1:]), parts[0].view(units, -1).sum(1))

    def attach(self) -> None:
        """Let the modules compute with their effective weights. The hooks end with the model's training."""
        for (index, path), linear in self.linears.items():
            if self.axes[path] == 1:
                linear.register_forward_pre_hook(self._shrunk(index, path))
            linear.register_forward_hook(self._adapted(index, path))

    def _shrunk(self, index: int, path: str) -> Any:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if not self.watching:
                return None
            return (arguments[0] * self.factors(index, path).to(arguments[0].dtype), *arguments[1:])

        return hook

    def _adapted(self, index: int, path: str) -> Any:
        a, b = self.state[f"A/{index}.{path}"], self.state[f"B/{index}.{path}"]

        def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not self.watching:
                return None
            inputs = arguments[0]
            output = output + self.gamma * (inputs @ a.to(inputs.dtype).T @ b.to(inputs.dtype).T)
            return output if self.axes[path] == 1 else output * self.factors(index, path).to(output.dtype)

        return hook

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Effective weights in the modules' own place inside, for what reads weights."""
        originals = {place: linear.weight.data for place, linear in self.linears.items()}
        try:
            for (index, path), linear in self.linears.items():
                linear.weight.data = self.effective(index, path).to(linear.weight.dtype)
            self.watching = False
            yield
        finally:
            self.watching = True
            for place, weight in originals.items():
                self.linears[place].weight.data = weight


def shear(job: TrainingJob, settings: Mapping[str, Any], statistic: GradientStatistic) -> None:
    """Both parts; leaves the variables, factors and periods in the job's directory."""
    import torch

    from reproducer.pruning.allocation import parameters_to_remove
    from reproducer.pruning.together import cut_together

    model, architecture = job.model, job.architecture
    state = _fresh(job, settings["rank"])
    variables = Variables(model, architecture, job.layers, settings["rank"], settings["alpha"], state)
    variables.attach()
    optimizer = torch.optim.Adam(
        [tensor for name, tensor in state.items() if name[:2] in ("A/", "B/")], lr=settings["learning_rate"]
    )
    remove = parameters_to_remove(model, job.layers, job.cut)
    cut_together(model, architecture, _by_layer(state, "scale", job.layers), remove, job.cut.round_to)  # reachable?
    samples = job.ids[: settings["score_samples"]]
    warmup, duration = settings["warmup_steps"], settings["period_steps"]

    def begin() -> None:
        scores = _scores(job, variables, statistic, samples)
        costs = _group_costs(job, variables, scores, samples, settings["probe"])
        for group in _unprunable(job, costs, settings["unprunable"], remove):
            state[f"unprunable/{group}"].fill_(True)

    def split() -> None:
        """Into important and redundant structures, and these into periods."""
        scores = _scores(job, variables, statistic, samples)
        prunable = {
            index: {kind: values for kind, values in of_layer.items() if not state[f"unprunable/{index}.{kind}"]}
            for index, of_layer in scores.items()
        }
        kept = cut_together(model, architecture, prunable, remove, job.cut.round_to)
        gone = []
        for index, of_layer in scores.items():
            for kind, values in of_layer.items():
                state[f"score/{index}.{kind}"].copy_(values)
                if kind in prunable[index]:
                    stays = set(kept[kind][index])
                    numbers = enumerate(values.tolist())
                    gone += [(score, index, kind, unit) for unit, score in numbers if unit not in stays]
        for place, (_, index, kind, unit) in enumerate(sorted(gone)):
            state[f"period/{index}.{kind}"][unit] = place * settings["periods"] // len(gone)

    def step(number: int, ids: Tensor) -> float:
        if number == warmup:
            split()
        loss = text_loss(job, ids)
        optimizer.zero_grad()
        loss.backward()
        before = {name: tensor.detach().clone() for name, tensor in state.items()} if number >= warmup else {}
        optimizer.step()
        if before:
            period, place = divmod(number - warmup, duration)
            _shrink(variables, period, (duration - place - 1) / (duration - place), before, settings["epsilon"])
        return float(loss.detach())

    steps = warmup + settings["periods"] * duration
    train_steps(job, state, optimizer, step, steps=steps, batch=settings["batch"], settings=settings, begin=begin)


def _fresh(job: TrainingJob, rank: int) -> dict[str, Tensor]:
    """The state in front of the first step: A random as in LoRA, B zero, nothing taken."""
    import torch

    from reproducer.models.architecture import linear_at
    from reproducer.models.training import derived_seed

    generator = torch.Generator().manual_seed(derived_seed(job.seed, "lorashear"))
    blocks, state = job.architecture.decoder_layers(job.model), {}
    for index in job.layers:
        for path in job.architecture.modules():
            weight = linear_at(blocks[index], path).weight
            wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
            outputs, inputs = weight.shape
            a = (torch.rand(rank, inputs, generator=generator, dtype=wide) * 2 - 1) / math.sqrt(inputs)
            state[f"A/{index}.{path}"] = a.to(weight.device).requires_grad_()
            state[f"B/{index}.{path}"] = torch.zeros(outputs, rank, dtype=wide, device=weight.device).requires_grad_()
        for kind, units in job.units(index).items():
            state[f"scale/{index}.{kind}"] = torch.ones(units, dtype=wide, device=weight.device)
            state[f"score/{index}.{kind}"] = torch.zeros(units, dtype=wide)
            state[f"period/{index}.{kind}"] = torch.full((units,), STAYS, dtype=torch.int32)
            state[f"unprunable/{index}.{kind}"] = torch.zeros((), dtype=torch.bool)
    return state


def _by_layer(state: Mapping[str, Tensor], name: str, layers: list[int]) -> dict[int, dict[Kind, Tensor]]:
    return {index: {kind: state[f"{name}/{index}.{kind}"] for kind in KINDS} for index in layers}


def _scores(
    job: TrainingJob, variables: Variables, statistic: GradientStatistic, samples: Tensor
) -> dict[int, dict[Kind, Tensor]]:
    """Scores a parameter, {layer: {kind: [units]}}, of the effective weights."""
    import torch

    from reproducer.models.architecture import unit_parameters
    from reproducer.pruning.collect import collect
    from reproducer.pruning.scoring import structure_scores

    with variables.merged():
        statistics = collect(job.model, samples, job.layers, [statistic])
    scores = structure_scores(
        job.model, job.architecture, statistics, lambda vectors, _: vectors[statistic], torch.Generator()
    )
    blocks = job.architecture.decoder_layers(job.model)
    return {
        index: {
            kind: values / unit_parameters(blocks[index], job.architecture, kind) for kind, values in of_layer.items()
        }
        for index, of_layer in scores.items()
    }


def _group_costs(
    job: TrainingJob, variables: Variables, scores: Mapping[int, Mapping[Kind, Tensor]], samples: Tensor, share: float
) -> dict[str, float]:
    """The sum of the losses on the samples with each node group `layer.kind` cut alone.

    A group of one unit is left out: it cannot be cut.
    """
    import torch

    from reproducer.models.walk import BATCH_TOKENS, LayerWalk
    from reproducer.pruning.surgery import sliced_layer

    walk = LayerWalk(job.model, samples.shape[1])
    costs: dict[str, float] = {}
    with torch.no_grad():
        for ids in samples.split(max(1, BATCH_TOKENS // samples.shape[1])):
            below = walk.embed(ids)
            for index in range(job.layers[-1] + 1):
                for kind, values in scores.get(index, {}).items():
                    if len(values) == 1:
                        continue
                    count = max(1, math.floor(share * len(values) + 1e-9))
                    kept = {"heads": None, "channels": None, kind: sorted(values.argsort(stable=True)[count:].tolist())}
                    layer = sliced_layer(walk.layers[index], job.architecture, kept["heads"], kept["channels"])
                    hidden = walk.run(index, below, layer)
                    for above in range(index + 1, len(walk.layers)):
                        hidden = walk.run(above, hidden)
                    loss = float(walk.losses(hidden, ids).double().sum())
                    costs[f"{index}.{kind}"] = costs.get(f"{index}.{kind}", 0.0) + loss
                below = walk.run(index, below)
    return costs


def _unprunable(job: TrainingJob, costs: Mapping[str, float], share: float, remove: int) -> list[str]:
    """The node groups `layer.kind` that cost most, as many as the share says and the cut allows."""
    from reproducer.models.architecture import unit_parameters

    blocks = job.architecture.decoder_layers(job.model)
    room = {
        f"{index}.{kind}": (units - 1) * unit_parameters(blocks[index], job.architecture, kind)
        for index in job.layers
        for kind, units in job.units(index).items()
    }
    spare, spared = sum(room.values()) - remove, []
    for group in sorted(costs, key=lambda group: (-costs[group], group))[: math.floor(share * len(room) + 1e-9)]:
        spare -= room[group]
        if spare < 0:
            break
        spared.append(group)
    return spared


def _shrink(variables: Variables, period: int, factor: float, before: Mapping[str, Tensor], epsilon: float) -> None:
    """Shrink what is taken in this period, and set to zero what has left the half-space of its weights `before`."""
    state, taken = variables.state, {}
    for index in variables.shapes:
        for kind in KINDS:
            scale = state[f"scale/{index}.{kind}"]
            taken[index, kind] = (state[f"period/{index}.{kind}"] == period).to(scale.device)
            scale[taken[index, kind]] *= factor
    dots: dict[tuple[int, Kind], Tensor] = {}
    norms: dict[tuple[int, Kind], Tensor] = {}
    for index, path in variables.linears:
        place, along = (index, variables.kinds[path]), 1 - variables.axes[path]
        if taken[place].any():
            new, old = variables.effective(index, path), variables.effective(index, path, before)
            dots[place] = dots.get(place, 0) + variables.by_unit(index, path, (new * old).sum(along))
            norms[place] = norms.get(place, 0) + variables.by_unit(index, path, old.square().sum(along))
    for (index, kind), values in dots.items():
        outside = (values < epsilon * norms[index, kind]) & taken[index, kind]
        state[f"scale/{index}.{kind}"][outside] = 0
