"""A pruning plan: which structures stay, and what else changes. With the base model it determines the pruned model."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.models.architecture import (
    KINDS,
    Architecture,
    Kind,
    Member,
    Norm,
    architecture_of,
    layer_shape,
    parameter_count,
    unit_parameters,
)
from reproducer.pruning.surgery import place, remove_layers, sliced_layer, sliced_members

FORMAT = 2


@dataclass(eq=False)
class Plan:
    """What stays of a base model, layer by layer, and which of its parameters change.

    Layers are numbered as in the base model throughout. A layer that is absent keeps all.

    Attributes:
        units: {layer: {"heads": n, "channels": n, …widths}} of *every* layer of the base model; `apply` checks them.
        kept_heads: {layer: sorted kept heads}; a unit is a key-value group with its query heads where heads share keys.
        kept_channels: {layer: sorted kept MLP channels}.
        method: the method that made the plan, and `settings` how.
        tensors: {parameter name in the base model: value}, shaped as in the pruned model (a weight without the rows or
            columns that go). A bias that a linear module of the base model does not have is added. Values take the
            dtype of the model.
        removed_layers: sorted indices of layers that go as a whole.
        scores: {layer: {"heads": [units], "channels": [channels]}} float tensors; neither saved nor compared.
    """

    units: dict[int, dict[str, int]]
    kept_heads: dict[int, list[int]]
    kept_channels: dict[int, list[int]]
    method: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)
    removed_layers: list[int] = field(default_factory=list)
    scores: Mapping[int, Mapping[Kind, Tensor]] = field(default_factory=dict, repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        same = all(getattr(self, name) == getattr(other, name) for name in ("kept_heads", "kept_channels", *_HEADER))
        return (
            same
            and self.tensors.keys() == other.tensors.keys()
            and all(
                tensor.dtype == other.tensors[name].dtype and torch.equal(tensor, other.tensors[name])
                for name, tensor in self.tensors.items()
            )
        )

    def kept(self, kind: Kind, layer: int) -> list[int] | None:
        """Kept units of a layer, None where all stay."""
        return (self.kept_heads if kind == "heads" else self.kept_channels).get(layer)

    @property
    def layers(self) -> list[int]:
        """Layers of which the plan keeps a part."""
        return sorted(set(self.kept_heads) | set(self.kept_channels))

    def shares(self) -> dict[Kind, float]:
        """By kind the share of the units that goes, over the layers of which a part stays; empty if there are none."""
        found: dict[Kind, float] = {}
        for kind in KINDS if self.layers else ():
            whole = sum(self.units[layer][kind] for layer in self.layers)
            kept = [self.kept(kind, layer) for layer in self.layers]
            stay = sum(
                self.units[layer][kind] if of is None else len(of) for layer, of in zip(self.layers, kept, strict=True)
            )
            found[kind] = 1 - stay / whole
        return found

    def apply(self, model: nn.Module) -> nn.Module:
        """A model of its own with smaller weights; `model` is left as it was, and nothing is shared with it."""
        architecture = self.check(model)
        layers = architecture.decoder_layers(model)
        # deepcopy takes the smaller module where it meets the large one
        memo: dict[int, Any] = {id(layers[index]): nn.Identity() for index in self.removed_layers}
        cut: dict[int, dict[str, nn.Module]] = {}
        for index in self.layers:
            cut[index] = self._sliced(index, layers[index], architecture)
            memo.update({id(layers[index].get_submodule(path)): module for path, module in cut[index].items()})
        smaller = copy.deepcopy(model, memo)
        for index, modules in cut.items():
            place(architecture.decoder_layers(smaller)[index], architecture, modules)
        return self._finish(smaller)

    def apply_(self, model: nn.Module) -> nn.Module:
        """Cut `model` in place, a layer at a time, so that no second copy of it is ever held; returns it."""
        architecture = self.check(model)
        layers = architecture.decoder_layers(model)
        for index in self.layers:
            place(layers[index], architecture, self._sliced(index, layers[index], architecture))
        return self._finish(model)

    def layer(self, index: int, layer: nn.Module, architecture: Architecture) -> nn.Module | None:
        """Decoder layer `index` as the plan leaves it, None if it goes; what does not change is shared with `layer`.

        For evaluating a plan layer by layer, without a second model. The plan is taken to fit (see `check`).
        """
        if index in self.removed_layers:
            return None
        prefix = f"{architecture.layers}.{index}."
        tensors = {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}
        if index not in self.layers and not tensors:
            return layer
        smaller = sliced_layer(layer, architecture, self.kept("heads", index), self.kept("channels", index))
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition(".")
            parent, _, child = path.rpartition(".")
            twin = copy.copy(smaller.get_submodule(path))
            twin._parameters = {**twin._parameters, leaf: _parameter(twin, leaf, tensor)}
            smaller.get_submodule(parent)._modules[child] = twin  # the parent is the layer's own: sliced_layer's copy
        return smaller

    def _sliced(self, index: int, layer: nn.Module, architecture: Architecture) -> dict[str, nn.Module]:
        return sliced_members(layer, architecture, self.kept("heads", index), self.kept("channels", index))

    def _finish(self, model: nn.Module) -> nn.Module:
        for name, tensor in self.tensors.items():
            path, _, leaf = name.rpartition(".")
            module = model.get_submodule(path)
            old = module._parameters[leaf]
            if old is None:
                module.register_parameter(leaf, _parameter(module, leaf, tensor))
            else:  # in place, so that tied parameters stay tied
                with torch.no_grad():
                    old.copy_(tensor)
        remove_layers(model, self.removed_layers)
        return model

    def parameters_removed(self, model: nn.Module) -> int:
        """Parameters that `apply` takes away, less those that it adds; a model on the meta device will do."""
        architecture = self.check(model)
        layers = architecture.decoder_layers(model)
        removed = sum(parameter_count(layers[index]) for index in self.removed_layers)
        for index in self.layers:
            for kind in KINDS:
                kept = self.kept(kind, index)
                if kept is not None:
                    of_unit = unit_parameters(layers[index], architecture, kind)
                    removed += (self.units[index][kind] - len(kept)) * of_unit
        existing = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        return removed - sum(tensor.numel() for name, tensor in self.tensors.items() if name not in existing)

    def parameters_left(self, model: nn.Module) -> int:
        """Parameters of the pruned model."""
        return parameter_count(model) - self.parameters_removed(model)

    def check(self, model: nn.Module) -> Architecture:
        """The model's architecture.

        Raises:
            UserError: the plan was made for another model, keeps nothing or units that there are not, or holds tensors
                of unknown names or of other shapes than the pruned model has.
        """
        architecture = architecture_of(model)
        actual = units_of(model, architecture)
        if actual != self.units:
            differs = next(i for i in sorted(set(actual) | set(self.units)) if actual.get(i) != self.units.get(i))
            raise UserError(
                f"the plan was made for another model: its layer {differs} is {self.units.get(differs, 'none')}, "
                f"this model's {actual.get(differs, 'none')}",
                "apply a plan to the unpruned base model that it was made from",
            )
        gone = self.removed_layers
        if gone != sorted(set(gone)) or not set(gone) < actual.keys():
            raise UserError(
                f"the plan removes layers {gone}; the model has 0 to {len(actual) - 1}, and one has to stay"
            )
        for kind in KINDS:
            for index in self.layers:
                self._check_kept(kind, index, self.kept(kind, index))
        for name, tensor in self.tensors.items():
            expected = self._shape(name, model, architecture)
            if tuple(tensor.shape) != expected:
                raise UserError(
                    f"the plan's {name} has the shape {tuple(tensor.shape)}; in the pruned model it has {expected}"
                )
            if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
                raise UserError(f"the plan's {name} holds values that are no finite numbers")
        return architecture

    def _check_kept(self, kind: Kind, index: int, kept: list[int] | None) -> None:
        if index in self.removed_layers or index not in self.units:
            state = "removes it as a whole" if index in self.removed_layers else "the model does not have it"
            raise UserError(f"the plan cuts {kind} of layer {index}, but {state}")
        if kept is not None and (not kept or kept != sorted(set(kept) & set(range(self.units[index][kind])))):
            raise UserError(
                f"the plan keeps {kind} {kept} of layer {index}, which has 0 to {self.units[index][kind] - 1}",
                "at least one stays, in ascending order",
            )

    def _shape(self, name: str, model: nn.Module, architecture: Architecture) -> tuple[int, ...]:
        """Shape that a parameter of the base model, or a bias that it lacks, has in the pruned model."""
        path, _, leaf = name.rpartition(".")
        prefix = f"{architecture.layers}."
        try:
            module: Any = model.get_submodule(path)
            parameter = module._parameters[leaf]
        except (AttributeError, KeyError):
            known = next(name for name, _ in model.named_parameters() if name.startswith(prefix))
            raise UserError(
                f"the plan changes {name}, which the model does not have",
                f"names are those of the base model's parameters, such as {known}",
            ) from None
        index = int(name.removeprefix(prefix).partition(".")[0]) if name.startswith(prefix) else None
        if index in self.removed_layers:
            raise UserError(f"the plan changes {name}, of a layer that it removes")
        shape = list(module.weight.shape[:1] if parameter is None else parameter.shape)
        if index is not None:
            within = path.removeprefix(f"{prefix}{index}.")
            widths = layer_shape(architecture.decoder_layers(model)[index], architecture)
            for kind in KINDS:
                kept, axis = self.kept(kind, index), architecture.modules(kind).get(within, 0)
                owners: list[Member | Norm] = [owner for owner in architecture.members(kind) if owner.module == within]
                owners += [norm for norm in architecture.norms if norm.module == within and kind == "heads"]
                if kept is not None and owners and axis < len(shape):
                    shape[axis] = len(kept) * sum(widths.vectors_per_unit(owner) for owner in owners)
        return tuple(shape)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; equal plans give equal bytes.

        Kept structures are bit masks, what is no tensor is metadata: a few KB where a plan has no tensors. Scores are
        left out.
        """
        entries = {f"tensors.{name}": tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        for kind in KINDS:
            for index in self.layers:
                kept = self.kept(kind, index)
                if kept is not None:
                    entries[f"layers.{index}.{kind}"] = _packed(kept, self.units[index][kind])
        # One entry: safetensors writes several in an order of its own.
        header = {"format": FORMAT, **{name: getattr(self, name) for name in _HEADER}}
        entries = {name: tensor.clone() for name, tensor in sorted(entries.items())}  # it refuses shared memory
        save_file(entries, str(path), metadata={"plan": json.dumps(header, sort_keys=True, allow_nan=False)})

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan; UserError if the file is missing or is no plan."""
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {})["plan"])
                entries = {name: file.get_tensor(name) for name in sorted(file.keys())}
            if header.pop("format") != FORMAT:
                raise ValueError(f"not of format {FORMAT}")
            units = {int(index): {**counts} for index, counts in header["units"].items()}
            tensors: dict[str, Tensor] = {}
            kept: dict[str, dict[int, list[int]]] = {kind: {} for kind in KINDS}
            for entry, tensor in entries.items():
                group, _, name = entry.partition(".")
                if group == "tensors":
                    tensors[name] = tensor
                else:
                    index, kind = name.split(".")
                    kept[kind][int(index)] = _unpacked(tensor, units[int(index)][kind])
            return cls(
                units,
                dict(sorted(kept["heads"].items())),
                dict(sorted(kept["channels"].items())),
                str(header["method"]),
                {**header["settings"]},
                tensors,
                [int(index) for index in header["removed_layers"]],
            )
        except FileNotFoundError:
            raise UserError(f"there is no plan at {path}") from None
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is no pruning plan: {type(error).__name__}: {error}") from None


_HEADER = ("method", "settings", "units", "removed_layers")


def _parameter(module: nn.Module, name: str, value: Tensor) -> nn.Parameter:
    """`value` as a parameter like the one of this name, or, for a bias that is not there, like the weight."""
    like: Any = module._parameters[name] if module._parameters[name] is not None else module.weight
    return nn.Parameter(value.detach().to(like.device, like.dtype, copy=True), requires_grad=like.requires_grad)


def _packed(kept: list[int], count: int) -> Tensor:
    """Bit mask of the kept units, the first one the highest bit of the first byte."""
    mask = bytearray(-(-count // 8))
    for unit in kept:
        mask[unit // 8] |= 128 >> unit % 8
    return torch.frombuffer(mask, dtype=torch.uint8)


def _unpacked(mask: Tensor, count: int) -> list[int]:
    if mask.dtype != torch.uint8 or mask.shape != (-(-count // 8),):
        raise ValueError(f"a mask of {mask.dtype} and shape {tuple(mask.shape)} for {count} units")
    values = mask.tolist()
    kept = [unit for unit in range(count) if values[unit // 8] & 128 >> unit % 8]
    if not kept:
        raise ValueError("a mask that keeps nothing")
    return kept


def units_of(model: nn.Module, architecture: Architecture) -> dict[int, dict[str, int]]:
    """Prunable units of every layer of a model, and the widths that a unit of it has."""
    shapes = [layer_shape(layer, architecture) for layer in architecture.decoder_layers(model)]
    widths = ("hidden", "head_dim", "queries_per_group")
    return {
        index: {**{kind: shape.units(kind) for kind in KINDS}, **{name: getattr(shape, name) for name in widths}}
        for index, shape in enumerate(shapes)
    }
