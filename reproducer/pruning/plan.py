"""A pruning plan: which structures stay. With the base model it determines the pruned model."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.models.architecture import (
    KINDS,
    Architecture,
    Kind,
    architecture_of,
    layer_shape,
    parameter_count,
    unit_parameters,
)
from reproducer.pruning.surgery import place, sliced_members

FORMAT = 1


@dataclass
class Plan:
    """Kept structures a layer; a layer that is absent keeps all.

    Attributes:
        units: {layer: {"heads": n, "channels": n, …widths}} of *every* layer of the base model; `apply` checks them.
        kept_heads: {layer: sorted kept heads}; a unit is a key-value group with its query heads where heads share keys.
        kept_channels: {layer: sorted kept MLP channels}.
        method: the method that made the plan, and `settings` how.
        scores: {layer: {"heads": [units], "channels": [channels]}} float tensors; not written by `save`.
    """

    units: dict[int, dict[str, int]]
    kept_heads: dict[int, list[int]]
    kept_channels: dict[int, list[int]]
    method: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    removed_layers: list[int] = field(default_factory=list)
    scores: Mapping[int, Mapping[Kind, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def kept(self, kind: Kind, layer: int) -> list[int] | None:
        """Kept units of a layer, None where all stay."""
        return (self.kept_heads if kind == "heads" else self.kept_channels).get(layer)

    @property
    def layers(self) -> list[int]:
        """Layers that the plan cuts."""
        return sorted(set(self.kept_heads) | set(self.kept_channels))

    def apply(self, model: nn.Module) -> nn.Module:
        """A model of its own with smaller weights; `model` is left as it was, and nothing is shared with it."""
        architecture = self._check(model)
        memo: dict[int, Any] = {}  # deepcopy takes the smaller module where it meets the large one
        cut: dict[int, dict[str, nn.Linear]] = {}
        for index, layer in self._cut_layers(model, architecture):
            cut[index] = sliced_members(layer, architecture, self.kept("heads", index), self.kept("channels", index))
            memo.update({id(layer.get_submodule(path)): module for path, module in cut[index].items()})
        smaller = copy.deepcopy(model, memo)
        for index, modules in cut.items():
            place(architecture.decoder_layers(smaller)[index], modules)
        return smaller

    def apply_(self, model: nn.Module) -> nn.Module:
        """Cut `model` in place, a layer at a time, so that no second copy of it is ever held; returns it."""
        architecture = self._check(model)
        for index, layer in self._cut_layers(model, architecture):
            place(
                layer,
                sliced_members(layer, architecture, self.kept("heads", index), self.kept("channels", index)),
            )
        return model

    def parameters_removed(self, model: nn.Module) -> int:
        """Parameters that `apply` takes away; a model on the meta device will do."""
        architecture = self._check(model)
        removed = 0
        for index, layer in self._cut_layers(model, architecture):
            for kind in KINDS:
                kept = self.kept(kind, index)
                if kept is not None:
                    removed += (self.units[index][kind] - len(kept)) * unit_parameters(layer, architecture, kind)
        return removed

    def parameters_left(self, model: nn.Module) -> int:
        """Parameters of the pruned model."""
        return parameter_count(model) - self.parameters_removed(model)

    def _cut_layers(self, model: nn.Module, architecture: Architecture) -> list[tuple[int, nn.Module]]:
        layers = architecture.decoder_layers(model)
        return [(index, layers[index]) for index in self.layers]

    def _check(self, model: nn.Module) -> Architecture:
        architecture = architecture_of(model)
        actual = units_of(model, architecture)
        if actual != self.units:
            differs = next(i for i in sorted(set(actual) | set(self.units)) if actual.get(i) != self.units.get(i))
            raise UserError(
                f"the plan was made for another model: its layer {differs} is {self.units.get(differs, 'none')}, "
                f"this model's {actual.get(differs, 'none')}",
                "apply a plan to the unpruned base model that it was made from",
            )
        return architecture

    def save(self, path: str | Path) -> None:
        """Write kept structures as bit masks, the settings as metadata (safetensors, a few KB); scores are left out."""
        masks = {}
        for kind in KINDS:
            for index in self.layers:
                kept = self.kept(kind, index)
                if kept is not None:
                    mask = numpy.zeros(self.units[index][kind], dtype=bool)
                    mask[kept] = True
                    masks[f"layers.{index}.{kind}"] = numpy.packbits(mask)
        # One entry: safetensors writes several in an order of its own, and equal plans should be equal files.
        header = {"format": FORMAT, "method": self.method, "settings": self.settings, "units": self.units}
        save_file(masks, str(path), metadata={"plan": json.dumps(header, sort_keys=True, allow_nan=False)})

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan; UserError if the file is missing or is no plan."""
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = json.loads((file.metadata() or {})["plan"])
                masks = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']} is not {FORMAT}")
            units = {int(index): {**counts} for index, counts in header["units"].items()}
            kept: dict[str, dict[int, list[int]]] = {kind: {} for kind in KINDS}
            for name, mask in sorted(masks.items()):
                _, index, kind = name.split(".")
                kept[kind][int(index)] = _kept_units(mask, units[int(index)][kind])
            return cls(
                units,
                dict(sorted(kept["heads"].items())),
                dict(sorted(kept["channels"].items())),
                str(header["method"]),
                {**header["settings"]},
            )
        except FileNotFoundError:
            raise UserError(f"there is no plan at {path}") from None
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no pruning plan: {type(error).__name__}: {error}") from None


def _kept_units(mask: numpy.ndarray, count: int) -> list[int]:
    if mask.dtype != numpy.uint8 or mask.shape != (-(-count // 8),):
        raise ValueError(f"a mask of {mask.dtype} and shape {mask.shape} for {count} units")
    kept = numpy.flatnonzero(numpy.unpackbits(mask, count=count)).tolist()
    if not kept:
        raise ValueError("a mask that keeps nothing")
    return kept


def units_of(model: nn.Module, architecture: Architecture) -> dict[int, dict[str, int]]:
    """Prunable units of every layer of a model, and the widths that a unit of it has."""
    shapes = [layer_shape(layer) for layer in architecture.decoder_layers(model)]
    widths = ("hidden", "head_dim", "queries_per_group")
    return {
        index: {**{kind: shape.units(kind) for kind in KINDS}, **{name: getattr(shape, name) for name in widths}}
        for index, shape in enumerate(shapes)
    }
