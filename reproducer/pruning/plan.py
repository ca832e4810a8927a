"""A pruning plan: which structures stay, and what else changes. With the base model it determines the pruned model."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tabulate import tabulate
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of, layer_shape, parameter_count, unit_parameters
from reproducer.models.declaration import Architecture, Member, Norm
from reproducer.models.export.folder import saves_widths
from reproducer.pruning.surgery import place, remove_layers, sliced_layer, sliced_members

FORMAT = 2
WIDTHS = ("hidden", "head_dim", "queries_per_group")  # of a unit; what else `Plan.units` tells of a layer are kinds


@dataclass(eq=False, repr=False)
class Plan:
    """What stays of a base model, layer by layer, and which of its parameters change.

    Layers are numbered as in the base model throughout. A layer that is absent keeps all.

    Attributes:
        units: {layer: {"heads": n, "channels": n, …widths}} of *every* layer of the base model; `apply` checks them.
        kept: {kind: {layer: sorted kept units}}, the kinds being those of the architecture.
        method: the method that made the plan, and `settings` how.
        tensors: {parameter name in the base model: value}, shaped as in the pruned model (a weight without the rows or
            columns that go). A bias that a linear module of the base model does not have is added. Values take the
            dtype of the model.
        removed_layers: sorted indices of layers that go as a whole.
        base: `fingerprint` of the model that the plan was made for; empty where that is not known. Not compared.
        scores: {layer: {"heads": [units], "channels": [channels]}} float tensors; neither saved nor compared.
    """

    units: dict[int, dict[str, int]]
    kept: dict[str, dict[int, list[int]]]
    method: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    removed_layers: list[int] = field(default_factory=list)
    base: str = ""
    scores: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = {**{kind: {} for kind in self.kinds}, **self.kept}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        same = all(getattr(self, name) == getattr(other, name) for name in ("kept", *_HEADER) if name != "base")
        return (
            same
            and self.tensors.keys() == other.tensors.keys()
            and all(
                tensor.dtype == other.tensors[name].dtype and torch.equal(tensor, other.tensors[name])
                for name, tensor in self.tensors.items()
            )
        )

    @property
    def kinds(self) -> list[str]:
        """The kinds of units that the base model has."""
        return [name for name in next(iter(self.units.values()), {}) if name not in WIDTHS]

    @property
    def kept_heads(self) -> dict[int, list[int]]:
        """{layer: sorted kept heads}; a unit is a key-value group with its query heads where heads share keys."""
        return self.kept["heads"]

    @property
    def kept_channels(self) -> dict[int, list[int]]:
        """{layer: sorted kept MLP channels}."""
        return self.kept["channels"]

    @property
    def layers(self) -> list[int]:
        """Layers of which the plan keeps a part."""
        return sorted({layer for of_kind in self.kept.values() for layer in of_kind})

    def of_layer(self, layer: int) -> dict[str, list[int]]:
        """{kind: sorted kept units} of a layer; a kind that is absent keeps all."""
        return {kind: of_kind[layer] for kind, of_kind in self.kept.items() if layer in of_kind}

    def counts(self, layer: int) -> dict[str, int]:
        """{kind: how many units of a layer stay}; none of a layer that goes."""
        gone = layer in self.removed_layers
        return {kind: 0 if gone else len(self._stays(kind, layer)) for kind in self.kinds}

    def shares(self) -> dict[str, float]:
        """By kind the share of the units that goes, over the layers of which a part stays; empty if there are none."""
        layers = self.layers
        return {
            kind: 1 - sum(self.counts(layer)[kind] for layer in layers) / sum(self.units[i][kind] for i in layers)
            for kind in (self.kinds if layers else ())
        }

    def __repr__(self) -> str:
        shares = ", ".join(f"{share:.1%} of their {kind}" for kind, share in self.shares().items())
        parts = [f"{len(self.layers)} of {len(self.units)} layers without {shares}"] if self.layers else []
        parts += [f"{len(self.removed_layers)} layers gone"] if self.removed_layers else []
        parts += [f"{len(self.tensors)} tensors changed"] if self.tensors else []
        return f"<Plan {self.method or 'of no method'}: {'; '.join(parts) or 'nothing goes'}>"

    def summary(self) -> str:
        """What stays of each layer, as a table for a person."""
        counts = {layer: self.counts(layer) for layer in self.units}
        lines = [
            [layer, *(f"{left[kind]} of {self.units[layer][kind]}" for kind in self.kinds)]
            for layer, left in counts.items()
        ]
        return (
            f"{self!r}\n{tabulate(lines, headers=['layer', *self.kinds], colalign=('right',) * (1 + len(self.kinds)))}"
        )

    def _stays(self, kind: str, layer: int) -> Sequence[int]:
        return self.kept[kind].get(layer, range(self.units[layer][kind]))

    def apply(self, model: nn.Module) -> nn.Module:
        """A model of its own with smaller weights; `model` is left as it was, and nothing is shared with it."""
        architecture = self.check(model)
        layers = architecture.decoder_layers(model)
        # deepcopy takes the smaller module where it meets the large one
        memo: dict[int, Any] = {id(layers[index]): nn.Identity() for index in self.removed_layers}
        cut: dict[int, dict[str, nn.Module]] = {}
        for index in self.layers:
            cut[index] = sliced_members(layers[index], architecture, self.of_layer(index))
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
            place(layers[index], architecture, sliced_members(layers[index], architecture, self.of_layer(index)))
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
        smaller = sliced_layer(layer, architecture, self.of_layer(index))
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition(".")
            parent, _, child = path.rpartition(".")
            twin = copy.copy(smaller.get_submodule(path))
            twin._parameters = {**twin._parameters, leaf: _parameter(twin, leaf, tensor)}
            smaller.get_submodule(parent)._modules[child] = twin  # the parent is the layer's own: sliced_layer's copy
        return smaller

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
        return saves_widths(model)

    def parameters_removed(self, model: nn.Module) -> int:
        """Parameters that `apply` takes away, less those that it adds; a model on the meta device will do."""
        architecture = self.check(model)
        layers = architecture.decoder_layers(model)
        removed = sum(parameter_count(layers[index]) for index in self.removed_layers)
        for index in self.layers:
            for kind in architecture.kinds:
                gone = self.units[index][kind.name] - self.counts(index)[kind.name]
                removed += gone * unit_parameters(layers[index], architecture, kind)
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
        for kind, of_kind in self.kept.items():
            for index, kept in of_kind.items():
                self._check_kept(kind, index, kept)
        for name, tensor in self.tensors.items():
            expected = self._shape(name, model, architecture)
            if tuple(tensor.shape) != expected:
                raise UserError(
                    f"the plan's {name} has the shape {tuple(tensor.shape)}; in the pruned model it has {expected}"
                )
            if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
                raise UserError(f"the plan's {name} holds values that are no finite numbers")
        return architecture

    def check_base(self, model: nn.Module) -> None:
        """UserError if the plan was made for other weights than `model` has, though of the same shapes."""
        if self.base and self.base != (found := fingerprint(model)):
            raise UserError(
                f"the plan was made for another model: for weights with the hash {self.base[:12]}, not {found[:12]}",
                "take the base model that it was made from, in the same precision",
            )

    def _check_kept(self, kind: str, index: int, kept: list[int]) -> None:
        if index in self.removed_layers or index not in self.units:
            state = "removes it as a whole" if index in self.removed_layers else "the model does not have it"
            raise UserError(f"the plan cuts {kind} of layer {index}, but {state}")
        count = self.units[index].get(kind, 0)
        if not kept or kept != sorted(set(kept) & set(range(count))):
            raise UserError(
                f"the plan keeps {kind} {kept} of layer {index}, which has 0 to {count - 1}",
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
            for kind in architecture.kinds:
                kept, axis = self.kept[kind.name].get(index), kind.modules().get(within, 0)
                coupled: tuple[Member | Norm, ...] = (*kind.members, *kind.norms)
                owners = [owner for owner in coupled if owner.module == within]
                if kept is not None and owners and axis < len(shape):
                    shape[axis] = len(kept) * sum(widths.vectors_per_unit(owner) for owner in owners)
        return tuple(shape)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; equal plans of one base give equal bytes.

        Kept structures are bit masks, what is no tensor is metadata: a few KB where a plan has no tensors. Scores are
        left out.
        """
        entries = {f"tensors.{name}": tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        for kind, of_kind in self.kept.items():
            for index, kept in of_kind.items():
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
            kept: dict[str, dict[int, list[int]]] = {}
            for entry, tensor in entries.items():
                group, _, name = entry.partition(".")
                if group == "tensors":
                    tensors[name] = tensor
                else:
                    index, kind = name.split(".")
                    kept.setdefault(kind, {})[int(index)] = _unpacked(tensor, units[int(index)][kind])
            return cls(
                units,
                {kind: dict(sorted(of_kind.items())) for kind, of_kind in kept.items()},
                str(header["method"]),
                {**header["settings"]},
                tensors,
                [int(index) for index in header["removed_layers"]],
                str(header.get("base", "")),
            )
        except FileNotFoundError:
            raise UserError(f"there is no plan at {path}") from None
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is no pruning plan: {type(error).__name__}: {error}") from None


_HEADER = ("method", "settings", "units", "removed_layers", "base")


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and some values of all parameters, the same in bfloat16 as in float32.

    Of each parameter 64 values are taken, evenly spread, and rounded to bfloat16.
    """
    total = hashlib.sha256()
    for name, parameter in model.named_parameters():
        total.update(f"{name} {tuple(parameter.shape)}\0".encode())
        values = parameter.detach().flatten()
        places = torch.linspace(0, len(values) - 1, min(len(values), 64), dtype=torch.float64).long()
        sample = values[places.to(values.device)].to(torch.bfloat16)
        total.update(sample.view(torch.int16).cpu().numpy().tobytes())
    return total.hexdigest()


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
    return {
        index: {**shape.counts, **{name: getattr(shape, name) for name in WIDTHS}} for index, shape in enumerate(shapes)
    }
