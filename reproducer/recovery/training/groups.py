"""Weights quantised in groups, and adapters that keep to the groups: put into a model, written, loaded, merged.

A group is `group` neighbouring inputs of one output of a linear layer (the last may be shorter); its weights are
`low + step·code` with whole codes below 2^bits. An adapter adds the same number to all weights of a group, so that
merging it moves `low` alone: codes and steps stay, and the merged weights are as quantised as the base's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from reproducer.errors import UserError
from reproducer.files import replacing
from reproducer.models.architecture import architecture_of
from reproducer.models.training import seeded
from reproducer.recovery.training.adapter import target_names

FILE = "groupwise.safetensors"
PARTS = ("lora_A", "lora_B")


@dataclass(frozen=True)
class Layout:
    """How weights are quantised, and the factor of the adapters' product."""

    bits: int
    group: int
    scale: float

    def __post_init__(self) -> None:
        if not (self.bits > 0 and self.group > 0 and math.isfinite(self.scale)):
            raise ValueError(f"{self} cannot be")


@dataclass(frozen=True)
class Grouped:
    """A quantised weight, in float32 (float64 for a float64 weight).

    Attributes:
        codes: [outputs, inputs], whole numbers from 0 to 2^bits - 1.
        step, low: [outputs, groups].
        group: inputs a group.
    """

    codes: Tensor
    step: Tensor
    low: Tensor
    group: int

    def weight(self, shift: Tensor | None = None) -> Tensor:
        """The weight [outputs, inputs] that the codes stand for, with `shift` [outputs, groups] added to its groups."""
        low = self.low if shift is None else self.low + shift
        return self.codes * self._spread(self.step) + self._spread(low)

    def _spread(self, values: Tensor) -> Tensor:
        return values.repeat_interleave(self.group, dim=1)[:, : self.codes.shape[1]]


def grouped(weight: Tensor, bits: int, group: int) -> Grouped:
    """Quantises a weight [outputs, inputs]: equal steps from the least to the greatest of each group, to the nearest.

    No weight moves by more than half a step of its group, rounding in the weight's own precision aside.
    """
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    rows, columns = wide.shape
    filling = wide[:, -1:].expand(rows, -columns % group)  # of the last group, whose bounds it does not move
    parts = torch.cat([wide, filling], dim=1).unflatten(1, (-1, group))
    low, high = torch.aminmax(parts, dim=2, keepdim=True)
    step = (high - low) / (2**bits - 1)
    codes = ((parts - low) / torch.where(step > 0, step, 1)).round_().clamp_(max=2**bits - 1)
    return Grouped(codes.flatten(1)[:, :columns], step.squeeze(2), low.squeeze(2), group)


class GroupedLinear(nn.Linear):
    """A linear layer with a quantised weight W and an adapter: y = W x + bias + scale·B·A·p, p the sums of x by group.

    W is held in the layer's own dtype, A [rank, groups] and B [outputs, rank] in float32 (float64 for a float64 one).
    B starts at 0. A starts as LoRA's A does, whose columns it stands for: uniform, at most 1/√inputs.
    """

    def __init__(self, linear: nn.Linear, layout: Layout, rank: int, dropout: float) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.layout, self.dropout = layout, dropout
        quantised = grouped(linear.weight, layout.bits, layout.group).weight()
        self.weight = nn.Parameter(quantised.to(linear.weight.dtype), requires_grad=False)
        self.bias = linear.bias
        groups = -(-self.in_features // layout.group)
        bound = self.in_features**-0.5
        self.lora_A = nn.Parameter(_like(linear, rank, groups).uniform_(-bound, bound))
        self.lora_B = nn.Parameter(_like(linear, self.out_features, rank).zero_())

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        wide = functional.pad(input.to(self.lora_A.dtype), (0, -self.in_features % self.layout.group))
        sums = functional.dropout(wide.unflatten(-1, (-1, self.layout.group)).sum(-1), self.dropout, self.training)
        adapted = functional.linear(functional.linear(sums, self.lora_A), self.lora_B)
        return (output + self.layout.scale * adapted).to(output.dtype)


def add_grouped(
    model: nn.Module, seed: int, layout: Layout, *, rank: int, dropout: float, targets: Sequence[str] | None
) -> dict[str, nn.Parameter]:
    """Quantises linear layers of `model`, in place, and gives each a fresh adapter, which changes nothing yet.

    Args:
        seed: of the adapters' random numbers.
        rank, dropout, targets: as `GroupWise` has them.

    Returns:
        The adapters' weights by name.

    Raises:
        UserError: the architecture is unknown, or a target is no linear layer of its decoder layers.
    """
    architecture = architecture_of(model)
    names = target_names(model, targets)
    paths = [
        f"{architecture.layers}.{index}.{path}"
        for index, layer in enumerate(architecture.decoder_layers(model))
        for path, module in layer.named_modules()
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] in names
    ]
    adapters: dict[str, nn.Parameter] = {}
    with seeded(seed, next(model.parameters()).device):
        for path in paths:
            module = GroupedLinear(_linear(model, path), layout, rank, dropout)
            model.set_submodule(path, module)
            adapters |= {f"{path}.{part}": getattr(module, part) for part in PARTS}
    return adapters


def save_grouped(weights: dict[str, nn.Parameter], layout: Layout, directory: Path) -> None:
    """Writes what `add_grouped` returned. Quantised weights are not: they follow from the model and two numbers."""
    from safetensors.torch import save_file

    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    with replacing(directory / FILE) as part:
        save_file(tensors, part, metadata={"layout": json.dumps(asdict(layout), sort_keys=True)})


def apply_grouped(model: nn.Module, directory: Path, merge: bool = False) -> nn.Module:
    """`model` with quantised weights and trained adapters, changed in place, in evaluation mode.

    Args:
        merge: put the adapters into the quantised weights, for a plain model. The sums are made of the wide values and
            rounded to the model's dtype once.

    Raises:
        UserError: the file is missing or garbled, or was made for other widths.
    """
    layout, adapters = _read(model, directory)
    for path, (a, b) in adapters.items():
        linear = _linear(model, path)
        if merge:
            quantised = grouped(linear.weight, layout.bits, layout.group)
            shift = layout.scale * (b.to(quantised.low) @ a.to(quantised.low))
            linear.weight = nn.Parameter(quantised.weight(shift).to(linear.weight.dtype), requires_grad=False)
            continue
        module = GroupedLinear(linear, layout, len(a), dropout=0.0)
        with torch.no_grad():
            module.lora_A.copy_(a)
            module.lora_B.copy_(b)
        model.set_submodule(path, module)
    return model.eval() if merge else model.requires_grad_(False).eval()


def _read(model: nn.Module, directory: Path) -> tuple[Layout, dict[str, tuple[Tensor, Tensor]]]:
    """The layout, and A and B of each module by its path in `model`, which they fit."""
    from safetensors import SafetensorError, safe_open

    path = directory / FILE
    try:
        with safe_open(path, framework="pt") as file:
            layout = Layout(**json.loads((file.metadata() or {})["layout"]))
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as problem:
        raise UserError(f"{path} is no usable group-wise adapter: {problem}") from None
    architecture_of(model)
    adapters = {}
    for name in sorted({name.rpartition(".")[0] for name in tensors}):
        a, b = (tensors.get(f"{name}.{part}", torch.empty(0)) for part in PARTS)
        try:
            weight = _linear(model, name).weight
        except AttributeError:
            weight = torch.empty(0, 0)
        groups = -(-weight.shape[1] // layout.group)
        if a.shape[1:] != (groups,) or b.shape != (weight.shape[0], len(a)):
            raise UserError(
                f"the group-wise adapter in {path} does not fit this model: that of {name} is {tuple(b.shape)} times "
                f"{tuple(a.shape)}, the model's weight has {weight.shape[0]} outputs and {groups} groups of inputs",
                "an adapter goes with the base model and the pruning plan that it was trained on",
            )
        adapters[name] = (a, b)
    return layout, adapters


def _linear(model: nn.Module, path: str) -> nn.Linear:
    module = model.get_submodule(path)
    if not isinstance(module, nn.Linear):
        raise AttributeError(f"{path} is no linear layer")
    return module


def _like(linear: nn.Linear, *shape: int) -> Tensor:
    """An empty tensor for weights that are trained beside those of `linear`."""
    wide = torch.promote_types(linear.weight.dtype, torch.float32)
    return torch.empty(shape, dtype=wide, device=linear.weight.device)
