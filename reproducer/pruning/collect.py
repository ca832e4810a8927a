"""The passes that take statistics of a model's coupled structures.

One call of `collect` takes all that a set of methods asks for, in one pass. While the backward pass is in a layer, the
per-sample weight gradients are formed from the layer's inputs and output gradients, a chunk of vectors at a time,
reduced, and dropped. No weight-sized gradient outlives its chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of, linear_at
from reproducer.models.walk import BATCH_TOKENS, LayerWalk, frozen
from reproducer.pruning.reduction import reduce_gradients
from reproducer.pruning.statistics import (
    GradientStatistic,
    InputStatistic,
    State,
    Statistic,
    Statistics,
    WeightStatistic,
)

Progress = Callable[[float, float], None]

# Small enough for a CPU's last cache, large enough for an efficient product; a GPU wants work enough to fill it.
CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**27}
ACTIVATION_BYTES = 3 * 2**27
# Measured on SmolLM2 on a CPU: time backward with the statistics, and in the head both ways, in times forward.
BACKWARD, HEAD = 2.5, 1.5
REPAIR = "load the model in bfloat16 or float32, or leave the sample out; or the model itself is damaged"


@dataclass(frozen=True)
class Limits:
    """Memory that the collection may take beside the model.

    Attributes:
        activations: bytes of layer activations kept from the forward pass for the backward pass. Layers that do not
            fit are computed again when the backward pass reaches them; the numbers are the same.
        chunk: bytes of one per-sample gradient chunk in the accumulation dtype; None: by device.
    """

    activations: int = ACTIVATION_BYTES
    chunk: int | None = None


def collect(
    model: nn.Module,
    ids: Tensor | None,
    layers: Iterable[int],
    wanted: Iterable[Statistic],
    limits: Limits | None = None,
    *,
    walk: LayerWalk | None = None,
    below: Tensor | None = None,
    per_sample: bool = False,
    progress: Progress = lambda done, total: None,
) -> Statistics:
    """Statistics of every vector of `layers`, exact to the rounding of the model's dtype.

    Nothing is run for statistics of weights; one forward pass, up to the last of `layers`, for those of inputs; one
    forward and one backward pass, down to the first of `layers`, for those of gradients, which takes the others along.
    Those of gradients equal what N separate backward passes give (AdaPruner Eqs. 2 to 4 with the 1/N of LLM-Pruner's
    code). Sums are accumulated in float32, in float64 for a float64 model. The model's weights, flags, mode and hooks
    stay as found.

    Args:
        model: a causal language model of a declared architecture.
        ids: LongTensor [samples, length], or None if only statistics of weights are wanted.
        layers: indices of the layers to score.
        wanted: the statistics to reduce to; several methods share one pass.
        limits: memory limits.
        walk: a walk of this model at this length, if the caller has one.
        below: hidden states [samples, length, width] in front of the first layer, if the caller has them.
        per_sample: give the statistics, which are additive, of each sample alone, [samples, vectors]: those of any set
            of samples are the means of these.
        progress: told how much of the passes is done, and how much there is.

    Returns:
        {layer: {module: {statistic: Tensor [vectors]}}} on the CPU. Vectors are all rows (columns, for the output and
        the down projection) of the module's weight, fused or not: `LayerShape.span` says which are whose.

    Raises:
        ValueError: `per_sample` with a statistic that is not additive.
        UserError: a loss or a gradient is not finite (names the sample and the layer), or ids do not fit the model.
    """
    wanted, chosen = set(wanted), sorted(set(layers))
    weights = sorted((one for one in wanted if isinstance(one, WeightStatistic)), key=repr)
    inputs = sorted((one for one in wanted if isinstance(one, InputStatistic)), key=repr)
    gradients = {one for one in wanted if isinstance(one, GradientStatistic)}
    if per_sample and not all(one.additive for one in wanted):
        raise ValueError(f"not additive: {sorted((one for one in wanted if not one.additive), key=repr)}")
    if (inputs or gradients) and ids is None:
        raise UserError("this method needs calibration samples: pass token ids [samples, length]")
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        collected = _of_weights(model, chosen, weights)
        if ids is not None and (inputs or gradients):
            walk = walk or LayerWalk(model, ids.shape[1])
            watched = _Inputs(inputs, walk, chosen, per_sample)
            if gradients:
                limits, work = limits or Limits(), _Work(progress)
                _Backward(walk, ids, chosen, gradients, watched, limits, below, per_sample, work).run(collected)
            else:
                _forward(walk, ids, chosen, watched, below, progress)
            watched.finish(collected)
    return collected


def _of_weights(model: nn.Module, chosen: list[int], wanted: list[WeightStatistic]) -> Statistics:
    architecture = architecture_of(model)
    layers = architecture.decoder_layers(model)
    collected: Statistics = {}
    for index in chosen:
        collected[index] = {path: {} for path in architecture.modules()}
        for path, axis in architecture.modules().items() if wanted else ():
            weight = linear_at(layers[index], path).weight.detach()
            wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
            found: dict[Statistic, Tensor] = {
                statistic: statistic.of(wide if axis == 0 else wide.T).cpu() for statistic in wanted
            }
            if not all(torch.isfinite(values).all() for values in found.values()):
                raise UserError(f"layer {index}'s {path} holds weights that are not finite", REPAIR)
            collected[index][path].update(found)
    return collected


class _Inputs:
    """Statistics of inputs, gathered while layers run."""

    def __init__(self, wanted: list[InputStatistic], walk: LayerWalk, chosen: list[int], per_sample: bool) -> None:
        self.wanted, self.chosen, self.per_sample = wanted, set(chosen) if wanted else set(), per_sample
        self.paths = [path for path, axis in walk.architecture.modules().items() if axis == 1]
        self.states: dict[tuple[int, str, InputStatistic], list[State]] = {}
        self.dtypes: dict[tuple[int, str], torch.dtype] = {}

    @contextmanager
    def watching(self, index: int, layer: nn.Module, samples: int) -> Iterator[None]:
        """Take what goes into the projections of a layer, of `samples` samples, while inside."""
        paths = self.paths if index in self.chosen else []
        hooks = [
            layer.get_submodule(path).register_forward_pre_hook(
                lambda _, arguments, path=path: self._add(index, path, arguments[0].detach(), samples)
            )
            for path in paths
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _add(self, index: int, path: str, inputs: Tensor, samples: int) -> None:
        wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        self.dtypes[index, path] = wide.dtype
        parts = wide.reshape(samples if self.per_sample else 1, -1, wide.shape[-1])
        for statistic in self.wanted:
            states = self.states.setdefault((index, path, statistic), [])
            for part in parts:
                state = tuple(of_part.double() for of_part in statistic.reduce(part))
                if states and not self.per_sample:
                    states[0] = statistic.merge(states[0], state)
                else:
                    states.append(state)

    def finish(self, collected: Statistics) -> None:
        for (index, path, statistic), states in self.states.items():
            values = torch.stack([statistic.finish(state) for state in states]).to(self.dtypes[index, path]).cpu()
            if not torch.isfinite(values).all():
                raise UserError(f"inputs of layer {index}'s {path} are not finite", REPAIR)
            collected[index][path][statistic] = values if self.per_sample else values[0]


def _forward(
    walk: LayerWalk, ids: Tensor, chosen: list[int], watched: _Inputs, below: Tensor | None, progress: Progress
) -> None:
    """A forward pass up to the last chosen layer, some samples at a time."""
    size = max(1, BATCH_TOKENS // ids.shape[1])
    with torch.no_grad():
        for start in range(0, len(ids), size):
            part = slice(start, start + size)
            hidden = walk.embed(ids[part]) if below is None else below[part]
            for index in range(0 if below is None else chosen[0], chosen[-1] + 1):
                with watched.watching(index, walk.layers[index], len(hidden)):
                    hidden = walk.run(index, hidden)
                _check_finite(hidden, f"output of layer {index}", start)
            progress(min(start + size, len(ids)), len(ids))


@dataclass
class _Work:
    """How much is done, in parameters that the samples went forward through."""

    progress: Progress
    done: float = 0.0
    total: float = 0.0

    def add(self, work: float) -> None:
        self.done += work
        self.progress(min(self.done, self.total), self.total)


@dataclass
class _Backward:
    """One forward pass that keeps hidden states at layer boundaries, and one backward pass down to the first layer."""

    walk: LayerWalk
    ids: Tensor
    chosen: list[int]
    wanted: set[GradientStatistic]
    watched: _Inputs
    limits: Limits
    below: Tensor | None
    per_sample: bool
    work: _Work
    graphs: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def run(self, collected: Statistics) -> None:
        first, count = self.chosen[0], len(self.walk.layers)
        chunk = self.limits.chunk or CHUNK_BYTES.get(self.walk.device.type, 2**24)
        sizes = [sum(weight.numel() for weight in layer.parameters()) for layer in self.walk.layers]
        head = HEAD * self.walk.architecture.head_of(self.walk.model).weight.numel()
        self.work.total = sum(sizes) + BACKWARD * sum(sizes[first:]) + head
        boundary: dict[int, Tensor] = {}
        with torch.no_grad():
            hidden = self.below
            if hidden is None:
                hidden = self.walk.embed(self.ids)
                for index in range(first):
                    hidden = self.walk.run(index, hidden)
                    _check_finite(hidden, f"output of layer {index}")
                    self.work.add(sizes[index])
        spare, size = self.limits.activations, 0
        for index in range(first, count):
            boundary[index] = hidden
            if size <= spare:  # the first graph tells the size of all
                with self.watched.watching(index, self.walk.layers[index], len(self.ids)):
                    hidden, used = self._forward(index, hidden, collected, chunk)
                if not size:
                    size, again = used, count - first - spare // max(1, used)
                    self.work.total += max(0, again) * sizes[first]
                spare -= used
            else:
                with torch.no_grad(), self.watched.watching(index, self.walk.layers[index], len(self.ids)):
                    hidden = self.walk.run(index, hidden)
            _check_finite(hidden, f"output of layer {index}")
            self.work.add(sizes[index])
        gradient = self._head_gradient(hidden)
        self.work.add(head)
        for index in range(count - 1, first - 1, -1):
            if index not in self.graphs:
                self._forward(index, boundary[index], collected, chunk)
                self.work.add(sizes[index])
            inputs, outputs = self.graphs.pop(index)
            del boundary[index]
            (gradient,) = torch.autograd.grad(outputs, inputs, gradient)
            del inputs, outputs
            _check_finite(gradient, f"gradient below layer {index}")
            self.work.add(BACKWARD * sizes[index])

    def _forward(self, index: int, hidden: Tensor, collected: Statistics, chunk: int) -> tuple[Tensor, int]:
        """Run a layer under autograd, its member modules watched; returns its output and the bytes it keeps."""
        inputs = hidden.detach().requires_grad_()
        layer = self.walk.layers[index]
        weights = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
        kept: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()

        hooks = []
        for path, axis in self.walk.architecture.modules().items() if index in collected else ():
            watch = self._watch(axis, collected[index][path], chunk, count)
            hooks.append(layer.get_submodule(path).register_forward_hook(watch))
        try:
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                outputs = self.walk.run(index, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        self.graphs[index] = (inputs, outputs)
        return outputs.detach(), sum(kept.values())

    def _watch(self, axis: int, found: dict[Statistic, Tensor], chunk: int, count: Callable) -> Callable:
        """A forward hook: when the output's gradient arrives, reduce and forget the inputs."""

        def forward_hook(module: nn.Linear, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            features = self._by_sample(count(arguments[0]))
            weight, by_row = module.weight.detach(), axis == 0

            def output_gradient_hook(gradient: Tensor) -> None:
                gradient = self._by_sample(gradient)
                found.update(
                    reduce_gradients(
                        weight if by_row else weight.T,
                        gradient if by_row else features,
                        features if by_row else gradient,
                        self.wanted,
                        chunk,
                        self.per_sample,
                    )
                )

            output.register_hook(output_gradient_hook)

        return forward_hook

    def _by_sample(self, features: Tensor) -> Tensor:
        """[samples, tokens, width], also where a layer flattens them to [samples · tokens, width]."""
        return features.reshape(len(self.ids), -1, features.shape[-1])

    def _head_gradient(self, hidden: Tensor) -> Tensor:
        """Gradient of the sum of the samples' mean losses, with respect to the last layer's output."""
        leaf = hidden.detach().requires_grad_()
        with torch.enable_grad():
            losses = self.walk.losses(leaf, self.ids).mean(dim=1)
        finite = torch.isfinite(losses)
        if not finite.all():
            raise UserError(
                f"the loss of calibration sample {int((~finite).nonzero()[0])} is {losses[~finite][0].item()}",
                REPAIR,
            )
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return gradient


def _check_finite(values: Tensor, where: str, offset: int = 0) -> None:
    """UserError that names the sample unless all of `values` [samples, …] are finite; `offset` samples went before."""
    finite = torch.isfinite(values).flatten(1).all(dim=1)
    if not finite.all():
        sample = offset + int((~finite).nonzero()[0])
        raise UserError(f"calibration sample {sample} has a non-finite {where}", REPAIR)
