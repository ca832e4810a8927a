"""Everything that a scoring rule needs, from one forward and one backward pass.

A statistic is one number a *member vector* (a row or column of a weight that belongs to a coupled structure). With
`w` a weight, `g_j` its gradient on calibration sample j (mean next-token loss of that sample), `ḡ` the mean of the
g_j and `F` the mean of their squares: `s1 = w·ḡ`, `s2 = w²·F`, element by element.

While the backward pass is in a layer, the per-sample weight gradients are formed from the layer's inputs and output
gradients, a chunk of vectors at a time, reduced, and dropped. No weight-sized gradient outlives its chunk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.models.architecture import Member, linear_at
from reproducer.models.walk import LayerWalk, frozen

log = logging.getLogger(__name__)

# Small enough for a CPU's caches, large enough for an efficient product; a GPU wants work enough to fill it.
CHUNK_BYTES = {"cpu": 2**19, "cuda": 2**27}
ACTIVATION_BYTES = 3 * 2**27
REPAIR = "load the model in bfloat16 or float32, or leave the sample out; or the model itself is damaged"


@dataclass(frozen=True)
class Power:
    """`Σ |w|^p` of a member vector; needs no gradient."""

    p: float = 2


@dataclass(frozen=True)
class First:
    """`Σ s1`, signed."""


@dataclass(frozen=True)
class Second:
    """`Σ s2`."""


@dataclass(frozen=True)
class Element:
    """`Σ |s1 − ½·factor·s2|`: LLM-Pruner's `param_first` with factor 0, its `param_mix` with factor 1."""

    factor: float = 0.0


Statistic = Power | First | Second | Element
Vectors = Mapping[Statistic, Tensor]  # one member's statistics, each [vectors]
Statistics = dict[int, dict[str, dict[Statistic, Tensor]]]  # layer -> member module -> statistic -> [vectors]
ADDITIVE: frozenset[Statistic] = frozenset({First(), Second()})  # means over the samples of what each sample gives


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
) -> Statistics:
    """Statistics of every member vector of `layers`, exact to the rounding of the model's dtype.

    Equal to what N separate backward passes give (AdaPruner Eqs. 2 to 4 with the 1/N of LLM-Pruner's code). Sums are
    accumulated in float32, in float64 for a float64 model. The model's weights, flags, mode and hooks stay as found.

    Args:
        model: a causal language model of a declared architecture.
        ids: LongTensor [samples, length], or None if only `Power` is wanted.
        layers: indices of the layers to score. Layers below the first are not differentiated.
        wanted: the statistics to reduce to; several rules share one pass.
        limits: memory limits.
        walk: a walk of this model at this length, if the caller has one.
        below: hidden states [samples, length, width] in front of the first layer, if the caller has them.
        per_sample: give `First` and `Second` of each sample alone, [samples, vectors]. Both are means over the
            samples, so those of any set of samples are the means of these.

    Raises:
        ValueError: `per_sample` with a statistic that is no mean over the samples.
        UserError: a loss or a gradient is not finite (names the sample and the layer), or ids do not fit the model.
    """
    wanted, chosen = set(wanted), sorted(set(layers))
    powers = [statistic for statistic in wanted if isinstance(statistic, Power)]
    by_gradient = wanted - set(powers)
    if per_sample and not wanted <= ADDITIVE:
        raise ValueError(f"no means over the samples: {sorted(wanted - ADDITIVE, key=repr)}")
    if by_gradient and ids is None:
        raise UserError("this method needs calibration samples: pass token ids [samples, length]")
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        walk = walk or LayerWalk(model, 2 if ids is None else ids.shape[1])
        collected: Statistics = {index: _powers(walk, index, powers) for index in chosen}
        if by_gradient:
            assert ids is not None
            _Backward(walk, ids, chosen, by_gradient, limits or Limits(), below, per_sample).run(collected)
    return collected


def _powers(walk: LayerWalk, index: int, powers: list[Power]) -> dict[str, dict[Statistic, Tensor]]:
    found: dict[str, dict[Statistic, Tensor]] = {}
    for member in (*walk.architecture.heads, *walk.architecture.channels):
        weight = linear_at(walk.layers[index], member.module).weight.detach()
        wide = _accumulator(weight.dtype)
        sums: dict[Statistic, Tensor] = {}
        for power in powers:
            sums[power] = weight.to(wide).abs().pow(power.p).sum(1 - member.axis).cpu()
        if not all(torch.isfinite(values).all() for values in sums.values()):
            raise UserError(f"layer {index}'s {member.module} holds weights that are not finite", REPAIR)
        found[member.module] = sums
    return found


@dataclass
class _Backward:
    """One forward pass that keeps hidden states at layer boundaries, and one backward pass down to the first layer."""

    walk: LayerWalk
    ids: Tensor
    chosen: list[int]
    wanted: set[Statistic]
    limits: Limits
    below: Tensor | None
    per_sample: bool
    graphs: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def run(self, collected: Statistics) -> None:
        first, count = self.chosen[0], len(self.walk.layers)
        chunk = _Chunk(self.limits.chunk or CHUNK_BYTES.get(self.walk.device.type, 2**24))
        boundary: dict[int, Tensor] = {}
        with torch.no_grad():
            hidden = self.below
            if hidden is None:
                hidden = self.walk.embed(self.ids)
                for index in range(first):
                    hidden = self.walk.run(index, hidden)
                    self._check_finite(hidden, f"output of layer {index}")
        spare, size = self.limits.activations, 0
        for index in range(first, count):
            boundary[index] = hidden
            if size <= spare:  # the first layer's graph tells the size of all
                hidden, used = self._forward(index, hidden, collected, chunk)
                size = size or used
                spare -= used
            else:
                with torch.no_grad():
                    hidden = self.walk.run(index, hidden)
            self._check_finite(hidden, f"output of layer {index}")
        gradient = self._head_gradient(hidden)
        for index in range(count - 1, first - 1, -1):
            if index not in self.graphs:
                self._forward(index, boundary[index], collected, chunk)
            inputs, outputs = self.graphs.pop(index)
            del boundary[index]
            (gradient,) = torch.autograd.grad(outputs, inputs, gradient)
            del inputs, outputs
            self._check_finite(gradient, f"gradient below layer {index}")

    def _forward(self, index: int, hidden: Tensor, collected: Statistics, chunk: _Chunk) -> tuple[Tensor, int]:
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
        if index in collected:
            for member in (*self.walk.architecture.heads, *self.walk.architecture.channels):
                module = layer.get_submodule(member.module)
                found = collected[index][member.module]
                hooks.append(module.register_forward_hook(self._watch(member, found, chunk, count)))
        try:
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                outputs = self.walk.run(index, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        self.graphs[index] = (inputs, outputs)
        return outputs.detach(), sum(kept.values())

    def _watch(self, member: Member, found: dict[Statistic, Tensor], chunk: _Chunk, count: Callable) -> Callable:
        """A forward hook: when the output's gradient arrives, reduce and forget the inputs."""

        def forward_hook(module: nn.Linear, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            features = count(arguments[0])

            def output_gradient_hook(gradient: Tensor) -> None:
                weight, by_row = module.weight.detach(), member.axis == 0
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

    def _check_finite(self, gradient: Tensor, where: str) -> None:
        finite = torch.isfinite(gradient).flatten(1).all(dim=1)
        if not finite.all():
            raise UserError(
                f"calibration sample {int((~finite).nonzero()[0])} has a non-finite {where}",
                REPAIR,
            )


@dataclass
class _Chunk:
    """Bytes of one gradient chunk; halved for good when memory runs out."""

    bytes: int

    def vectors(self, length: int, item: int) -> int:
        return max(1, self.bytes // (length * item))

    def halve(self, vectors: int, length: int, item: int) -> None:
        self.bytes = max(1, vectors // 2) * length * item
        log.warning("out of memory: going on with gradient chunks of %d vectors", max(1, vectors // 2))


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def reduce_gradients(
    weight: Tensor, left: Tensor, right: Tensor, wanted: set[Statistic], chunk: _Chunk, per_sample: bool = False
) -> dict[Statistic, Tensor]:
    """Reduce per-sample weight gradients `left_jᵀ right_j` to one number a vector, a chunk of vectors at a time.

    Args:
        weight: [vectors, length of a vector].
        left: [samples, tokens, vectors], the factor on the vectors' side (rows: output gradients, columns: inputs).
        right: [samples, tokens, length], the other factor.
        wanted: `First`, `Second` and `Element` statistics.
        chunk: its size; reduced here if memory runs out.
        per_sample: one number a vector and sample, [samples, vectors], in place of [vectors].
    """
    vectors, length = weight.shape
    wide = _accumulator(weight.dtype)
    shape = (len(left), vectors) if per_sample else (vectors,)
    results = {
        statistic: torch.empty(shape, dtype=wide, device=weight.device) for statistic in sorted(wanted, key=repr)
    }
    start = 0
    while start < vectors:
        size = min(chunk.vectors(length, wide.itemsize), vectors)
        part = slice(start, min(start + size, vectors))
        try:
            rows, columns = weight[part].to(wide).contiguous(), left[..., part]
            samples = 1 if per_sample else len(columns)
            sets = zip(columns.split(samples), right.split(samples), strict=True)
            reduced = [_reduce_chunk(rows, of_left, of_right, wanted) for of_left, of_right in sets]
        except RuntimeError as error:
            if not _out_of_memory(error) or size == 1:
                raise
            chunk.halve(size, length, wide.itemsize)
            continue
        for statistic, values in results.items():
            values[..., part] = torch.stack([of_set[statistic] for of_set in reduced]).view_as(values[..., part])
        start = part.stop
    return {statistic: values.cpu() for statistic, values in results.items()}


def _reduce_chunk(weight: Tensor, left: Tensor, right: Tensor, wanted: set[Statistic]) -> dict[Statistic, Tensor]:
    samples = left.shape[0]
    second_order = any(isinstance(s, Second) or (isinstance(s, Element) and s.factor) for s in wanted)
    elementwise = any(isinstance(s, Element) for s in wanted)
    s1: Tensor | None = None
    s2: Tensor | None = None
    first, second = weight.new_zeros(2, weight.shape[0])
    if not second_order:  # the mean gradient alone: one product over the tokens of all samples
        s1 = (left.flatten(0, 1).T @ right.flatten(0, 1)).to(weight.dtype).mul_(weight).div_(samples)
    else:
        if elementwise:
            s1 = torch.zeros_like(weight)
        if any(isinstance(s, Element) and s.factor for s in wanted):
            s2 = torch.zeros_like(weight)
        for sample_left, sample_right in zip(left, right, strict=True):
            gradient = (sample_left.T @ sample_right).to(weight.dtype)  # g_j
            if s1 is not None:
                s1 += gradient
            if s2 is not None:
                s2.addcmul_(gradient, gradient)
            else:
                gradient.mul_(weight)
                second += torch.linalg.vector_norm(gradient, dim=1).square_()
                if s1 is None and First() in wanted:
                    first += gradient.sum(dim=1)
        if s1 is not None:
            s1.mul_(weight).div_(samples)
        if s2 is not None:
            s2.mul_(weight).mul_(weight).div_(samples)
            second = s2.sum(dim=1)
        else:
            second /= samples
    reduced: dict[Statistic, Tensor] = {}
    for statistic in wanted:
        if isinstance(statistic, First):
            reduced[statistic] = first / samples if s1 is None else s1.sum(dim=1)
        elif isinstance(statistic, Second):
            reduced[statistic] = second
        elif isinstance(statistic, Element):
            assert s1 is not None
            if statistic.factor:
                assert s2 is not None
                s1_less = torch.sub(s1, s2, alpha=statistic.factor / 2)
                reduced[statistic] = torch.linalg.vector_norm(s1_less, ord=1, dim=1)
            else:
                reduced[statistic] = torch.linalg.vector_norm(s1, ord=1, dim=1)
    return reduced
