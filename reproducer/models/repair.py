"""Repair of a pruned model in closed form: least squares at the projections that pruned structures feed.

Both models run layer by layer on the same samples. At the output projection of attention and at the down projection,
the weights that remain are fitted so that the pruned model's residual stream behind the projection comes close to the
dense model's. With X [tokens, inputs] what the projection sees in the pruned model as repaired so far, R [tokens,
outputs] what its output lacks, and a ridge λ towards the weights as they are:

    ΔW = Rᵀ X (XᵀX + λ · mean(diag XᵀX) · I)⁻¹

Relatives: OSSCAR (Meng et al. 2024), SlimGPT (Ling et al. 2024), ZipLM (Kurtic et al. 2023); they fit the output of a
layer, not the residual stream. It stands among the models because plans and recoveries both use it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.models.architecture import linear_at
from reproducer.models.declaration import Architecture, Kind
from reproducer.models.quantised import refuse_quantised
from reproducer.models.walk import BATCH_TOKENS, LayerWalk, frozen

RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
HELD_OUT = 8  # one sample of so many chooses the ridge and is not fitted until it is chosen
STRONGER = 10.0  # times the ridge, where the Cholesky factorisation fails
Targets = list[dict[Kind, Tensor]]  # by batch: the dense model's stream behind each projection of a layer


@dataclass(frozen=True)
class Fit:
    """What was done at one projection.

    Attributes:
        projection: its path in the model.
        ridge: λ; None where no ridge of `RIDGES` lowers the error of the samples held out, and nothing is changed.
        before, after: mean squared difference of the two residual streams behind the projection, over the mean square
            of the dense one: of the samples held out, or of all where the ridge is the caller's.
    """

    projection: str
    ridge: float | None
    before: float
    after: float


@dataclass(frozen=True)
class LayerRepair:
    """The new weights of one layer of the pruned model, by parameter name, and how they were fitted."""

    layer: int
    tensors: dict[str, Tensor]
    fits: list[Fit]


def repair(
    model: nn.Module,
    dense: nn.Module,
    ids: Tensor,
    *,
    layers: Sequence[int] | None = None,
    ridge: float | None = None,
    batch_tokens: int = BATCH_TOKENS,
    known: Callable[[int], LayerRepair | None] = lambda layer: None,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[LayerRepair]:
    """Repair `model` in place, and yield each of its layers when that is done.

    The layers in front of the first one that differs from the dense model's lack nothing; they are not yielded.

    Args:
        model: the pruned model, in a floating dtype.
        dense: the model that it was cut from. It may be on another device: its layers are copied to the pruned model's
            one at a time.
        ids: LongTensor [samples, length] of token ids.
        layers: which layers of the dense model the pruned one still has, in order; None: all.
        ridge: λ for all projections; None: of `RIDGES` the best on every eighth sample, for each projection.
        batch_tokens: at once in a forward pass.
        known: an earlier run's result for a layer of the pruned model, which is taken in place of a fit.
        say: called with what a person should read.

    Raises:
        UserError: a quantised model, too few samples for a ridge of 0, or hidden states that are not finite.
    """
    refuse_quantised(model, "a least-squares repair")
    with frozen(model), frozen(dense), torch.no_grad():
        pruned_walk, dense_walk = LayerWalk(model, ids.shape[1]), LayerWalk(dense, ids.shape[1])
        kept = list(range(len(dense_walk.layers)) if layers is None else layers)
        _check_count(pruned_walk, ids.numel(), ridge, say)
        batches = list(ids.split(max(1, batch_tokens // ids.shape[1])))
        dense_states = pruned_states = [pruned_walk.embed(batch) for batch in batches]
        for index, dense_layer in enumerate(dense_walk.layers):
            if dense_walk.device != pruned_walk.device:
                dense_layer = copy.deepcopy(dense_layer).to(pruned_walk.device)
            dense_block = _Block(dense_walk, index, dense_layer)
            if index not in kept:
                dense_states = [dense_block.run(hidden) for hidden in dense_states]
                continue
            number = kept.index(index)
            if pruned_states is dense_states and _equal(pruned_walk.layers[number], dense_layer):
                dense_states = pruned_states = [dense_block.run(hidden) for hidden in dense_states]
                continue
            block = _Block(pruned_walk, number, pruned_walk.layers[number])
            targets, dense_states = dense_block.targets(dense_states)
            if (result := known(number)) is None:
                result = _fit_layer(block, pruned_states, targets, ids.shape[1], ridge, say)
            for name, tensor in result.tensors.items():
                model.get_parameter(name).copy_(tensor)
            pruned_states = [block.run(hidden) for hidden in pruned_states]
            yield result


def _check_count(walk: LayerWalk, tokens: int, ridge: float | None, say: Callable[[str], None]) -> None:
    kinds = walk.architecture.kinds
    inputs = max(linear_at(layer, kind.output).in_features for layer in walk.layers for kind in kinds)
    if tokens < inputs and ridge == 0:
        raise UserError(
            f"the samples have {tokens} tokens for {inputs} inputs of a projection, which a ridge of 0 cannot fit",
            "take more samples, or a ridge above 0",
        )
    if tokens < inputs:
        say(f"the samples have {tokens} tokens for {inputs} inputs of a projection: more samples would repair better")


def _equal(layer: nn.Module, other: nn.Module) -> bool:
    weights, others = dict(layer.named_parameters()), dict(other.named_parameters())
    return weights.keys() == others.keys() and all(
        weight.shape == others[name].shape and torch.equal(weight, others[name]) for name, weight in weights.items()
    )


@dataclass
class _Seen:
    """What goes through a projection, [tokens, …], and the residual stream behind it.

    Attributes:
        inputs: of the projection.
        outputs: of the projection.
        stream: [tokens, width].
    """

    inputs: Tensor
    outputs: Tensor
    stream: Tensor


class _Enough(Exception):
    """Ends a layer's forward pass behind its attention."""


class _Block:
    """A decoder layer as the repair sees it: two branches that add to the residual stream."""

    def __init__(self, walk: LayerWalk, index: int, layer: nn.Module) -> None:
        self.walk, self.index, self.layer = walk, index, layer
        self.architecture: Architecture = walk.architecture

    def run(self, hidden: Tensor) -> Tensor:
        return self.walk.run(self.index, hidden, self.layer)

    def name(self, kind: Kind) -> str:
        """Path of a kind's output projection in the model."""
        return f"{self.architecture.layers}.{self.index}.{kind.output}"

    def projection(self, kind: Kind) -> nn.Linear:
        return linear_at(self.layer, kind.output)

    def see(self, hidden: Tensor, kinds: Sequence[Kind]) -> tuple[dict[Kind, _Seen], Tensor]:
        """Run the layer on hidden states [batch, length, width], no further than these kinds need.

        Returns:
            What went through the projections, and the layer's output where it was run to its end.
        """
        passed: dict[Kind, tuple[Tensor, Tensor]] = {}
        sums: list[Tensor] = []

        def watch(kind: Kind) -> Any:
            def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
                passed[kind] = _rows(arguments[0]), _rows(output)
                if kind.attends and len(kinds) == 1:
                    raise _Enough

            return hook

        hooks = [self.projection(kind).register_forward_hook(watch(kind)) for kind in kinds]
        if (norm := self.architecture.norm_of_stream(self.layer)) is not None:
            hooks.append(norm.register_forward_pre_hook(lambda module, arguments: sums.append(_rows(arguments[0]))))
        output = hidden
        try:
            output = self.run(hidden)
        except _Enough:
            pass
        finally:
            for each in hooks:
                each.remove()
        # a norm of the stream itself comes behind the sum, which is what the projection can change linearly
        behind = sums[0] if sums else _rows(output)
        seen = {
            kind: _Seen(inputs, outputs, _rows(hidden) + self.branch(kind, outputs) if kind.attends else behind)
            for kind, (inputs, outputs) in passed.items()
        }
        return seen, output

    def targets(self, states: list[Tensor]) -> tuple[Targets, list[Tensor]]:
        """The streams behind the projections, and the layer's outputs, of hidden states by batch."""
        targets: Targets = []
        outputs = []
        for hidden in states:
            seen, output = self.see(hidden, self.architecture.kinds)
            targets.append({kind: of_kind.stream for kind, of_kind in seen.items()})
            outputs.append(output)
        return targets, outputs

    def branch(self, kind: Kind, outputs: Tensor) -> Tensor:
        """What outputs of a projection add to the stream."""
        norm = self._norm(kind)
        return outputs * self._scale() if norm is None else norm(outputs)

    def gain(self, kind: Kind) -> Tensor:
        """A branch is `outputs · gain / size`: the gain of each output, [width] or a single number."""
        norm = self._norm(kind)
        if norm is None:
            return torch.full((), self._scale(), device=self.projection(kind).weight.device)
        return norm.weight + 1 if self.architecture.unit_norms else norm.weight

    def size(self, kind: Kind, outputs: Tensor) -> Tensor:
        """The size of each token's outputs [tokens, width] by which a norm divides them, [tokens, 1]."""
        norm = self._norm(kind)
        if norm is None:
            return outputs.new_ones(len(outputs), 1)
        epsilon: float = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        return (outputs.square().mean(1, keepdim=True) + epsilon).sqrt()

    def _norm(self, kind: Kind) -> Any:
        return None if kind.norm_behind is None else self.layer.get_submodule(kind.norm_behind)

    def _scale(self) -> float:
        return getattr(self.layer, self.architecture.branch_scale) if self.architecture.branch_scale else 1.0


def _rows(states: Tensor) -> Tensor:
    return states.reshape(-1, states.shape[-1])


@dataclass
class _Sums:
    """Sums over tokens, of which least squares are solved: XᵀX, XᵀR, and the squares of R and of the dense stream."""

    gram: Tensor
    cross: Tensor
    lacking: float = 0.0
    dense: float = 0.0

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.gram + other.gram,
            self.cross + other.cross,
            self.lacking + other.lacking,
            self.dense + other.dense,
        )

    def gained(self, change: Tensor, weights: Tensor) -> float:
        """By how much ΔWᵀ [inputs, outputs] lowers the squared error, with a weight for each output."""
        return ((change * (2 * self.cross - self.gram @ change)).sum(0) * weights).sum().item()


def _fit_layer(
    block: _Block,
    pruned: list[Tensor],
    targets: Targets,
    length: int,
    ridge: float | None,
    say: Callable[[str], None],
) -> LayerRepair:
    result = LayerRepair(block.index, {}, [])
    for kind in block.architecture.kinds:
        linear = block.projection(kind)
        fitted, held_out = _sums(block, kind, pruned, [target[kind] for target in targets], length)
        change, fit = _solve(block.name(kind), block.gain(kind).float().square(), fitted, held_out, ridge, say)
        if change is not None:
            linear.weight.add_(change.T.to(linear.weight.dtype))
        result.tensors[f"{block.name(kind)}.weight"] = linear.weight.detach().clone()
        result.fits.append(fit)
    return result


def _sums(block: _Block, kind: Kind, pruned: list[Tensor], targets: list[Tensor], length: int) -> tuple[_Sums, _Sums]:
    """The sums over the samples that are fitted, and those over the samples held out."""
    linear = block.projection(kind)
    wide = torch.float64 if linear.weight.dtype == torch.float64 else torch.float32
    fitted, held_out = (
        _Sums(
            torch.zeros(linear.in_features, linear.in_features, dtype=wide, device=linear.weight.device),
            torch.zeros(linear.in_features, linear.out_features, dtype=wide, device=linear.weight.device),
        )
        for _ in range(2)
    )
    gain = block.gain(kind).to(wide)
    usable = gain.abs() > 1e-3 * gain.abs().mean()  # an output that hardly reaches the stream repairs nothing
    start = 0
    for hidden, target in zip(pruned, targets, strict=True):
        seen = block.see(hidden, [kind])[0][kind]
        inputs = seen.inputs.to(wide) / block.size(kind, seen.outputs.to(wide))
        lacking = target.to(wide) - seen.stream.to(wide)
        if not (torch.isfinite(lacking).all() and torch.isfinite(inputs).all()):
            raise UserError(
                f"hidden states at {block.name(kind)} are not finite; the model cannot be repaired",
                "check its weights, or take a wider dtype: bfloat16 or float32 in place of float16",
            )
        outputs = torch.where(usable, lacking / torch.where(usable, gain, 1), 0)
        samples = torch.arange(start, start + len(hidden), device=inputs.device).repeat_interleave(length)
        start += len(hidden)
        for sums, rows in (
            (fitted, samples % HELD_OUT != HELD_OUT - 1),
            (held_out, samples % HELD_OUT == HELD_OUT - 1),
        ):
            part = inputs[rows]
            sums.gram.addmm_(part.T, part)
            sums.cross.addmm_(part.T, outputs[rows])
            sums.lacking += lacking[rows].square().sum().item()
            sums.dense += target[rows].to(wide).square().sum().item()
    return fitted, held_out


def _solve(
    name: str, weights: Tensor, fitted: _Sums, held_out: _Sums, ridge: float | None, say: Callable[[str], None]
) -> tuple[Tensor | None, Fit]:
    """ΔWᵀ [inputs, outputs], None where no ridge of several lowers the error of the samples held out."""
    every = fitted + held_out
    if every.gram.diagonal().sum() == 0 or every.lacking == 0:  # nothing comes in, or nothing is lacking
        return None, Fit(name, None, 0.0, 0.0)
    if ridge is not None or held_out.dense == 0:
        chosen, judged = RIDGES[-1] if ridge is None else ridge, every
        gained = every.gained(_ridge_solution(every, chosen, name, say), weights)
    else:
        judged = held_out
        gains = [held_out.gained(_ridge_solution(fitted, each, name, say), weights) for each in RIDGES]
        gained = max(gains)
        chosen = RIDGES[gains.index(gained)]
    before = judged.lacking / judged.dense
    if ridge is None and gained <= 0:
        return None, Fit(name, None, before, before)
    change = _ridge_solution(every, chosen, name, say)
    return change, Fit(name, chosen, before, before - gained / judged.dense)


def _ridge_solution(sums: _Sums, ridge: float, name: str, say: Callable[[str], None]) -> Tensor:
    """(G + λ·mean(diag G)·I)⁻¹ C by Cholesky, with a stronger ridge where that fails."""
    mean = sums.gram.diagonal().mean()
    least = len(sums.gram) * torch.finfo(sums.gram.dtype).eps
    while True:
        damped = sums.gram.clone()
        damped.diagonal().add_(ridge * mean)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return torch.cholesky_solve(sums.cross, factor)
        stronger = max(STRONGER * ridge, least)
        say(f"{name}: a ridge of {ridge:g} is too weak to solve with; {stronger:g} is taken")
        ridge = stronger
