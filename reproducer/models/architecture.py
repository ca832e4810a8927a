"""The declaration of a model, and the widths and parameters of its layers by it. Imports torch in functions only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from reproducer.errors import UserError
from reproducer.models.declaration import Architecture, Kind, Member, Norm, Vectors
from reproducer.models.families import FAMILIES, PRUNED, SUPPORTED, UNSUPPORTED

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LayerShape:
    """The widths of one decoder layer, read from its weights: layers that were pruned before differ from the config.

    Attributes:
        hidden: width of the residual stream.
        head_dim: width of a head.
        queries_per_group: query heads that share a key-value head.
        counts: {name of a kind: prunable units}; a unit of `heads` is a key-value group with its query heads.
    """

    hidden: int
    head_dim: int
    queries_per_group: int
    counts: Mapping[str, int] = field(hash=False)

    @property
    def groups(self) -> int:
        """Key-value groups: heads, if each has keys and values of its own."""
        return self.counts["heads"]

    @property
    def channels(self) -> int:
        """Channels of the MLP."""
        return self.counts["channels"]

    def number(self, counts: str) -> int:
        """What a `Width` counts."""
        return {"queries": self.groups * self.queries_per_group, "groups": self.groups, **self.counts}[counts]

    def vectors_per_unit(self, member: Member | Norm) -> int:
        """Rows or columns of `member`'s weight that one unit owns."""
        return _vectors_per_unit(member.vectors, self.head_dim, self.queries_per_group)

    def span(self, kind: Kind, member: Member) -> slice:
        """Which rows (axis 0) or columns (axis 1) of its module's weight are the member's, which is one of `kind`."""
        *before, own = (
            self.counts[kind.name] * _vectors_per_unit(vectors, self.head_dim, self.queries_per_group)
            for vectors in (*member.after, member.vectors)
        )
        return slice(sum(before), sum(before) + own)


def _vectors_per_unit(vectors: Vectors, head_dim: int, queries_per_group: int) -> int:
    return {
        "query": queries_per_group * head_dim,
        "key_value": head_dim,
        "fused": 3 * head_dim,
        "single": 1,
    }[vectors]


def layer_shape(layer: nn.Module, architecture: Architecture) -> LayerShape:
    """The widths of a decoder layer, from its weights (a meta device will do)."""
    head_dim: int = getattr(layer.get_submodule(architecture.attention), architecture.head_dim)
    heads = next(kind for kind in architecture.kinds if kind.attends)
    output = linear_at(layer, heads.output)
    queries = output.in_features // head_dim
    source = next(member.module for member in heads.members if member.vectors in ("key_value", "fused"))
    shared = [member.vectors for member in heads.members if member.module == source]
    rows = linear_at(layer, source).out_features - shared.count("query") * queries * head_dim
    groups = rows // (head_dim * (3 if shared == ["fused"] else shared.count("key_value")))
    per_group = queries // groups
    counts = {
        kind.name: linear_at(layer, kind.output).in_features
        // _vectors_per_unit(kind.members[-1].vectors, head_dim, per_group)
        for kind in architecture.kinds
    }
    return LayerShape(output.out_features, head_dim, per_group, counts)


def linear_at(layer: nn.Module, path: str) -> nn.Linear:
    """The linear module at a dotted path of `layer`."""
    return cast("nn.Linear", layer.get_submodule(path))


def unit_parameters(layer: nn.Module, architecture: Architecture, kind: Kind) -> int:
    """Parameters that leave the model with one unit of `layer`: weights, the biases of its rows, norms over units."""
    shape = layer_shape(layer, architecture)
    total = sum(shape.vectors_per_unit(norm) for norm in kind.norms)
    for member in kind.members:
        linear = linear_at(layer, member.module)
        length = linear.weight.shape[1 - member.axis]
        biased = member.axis == 0 and linear.bias is not None
        total += shape.vectors_per_unit(member) * (length + int(biased))
    return total


def parameter_count(model: nn.Module) -> int:
    """All parameters, shared ones (tied embeddings) counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def family_of(config: Any) -> Architecture:
    """The family that lists a configuration's `model_type`.

    Raises:
        UserError: none does; says why where the reason is known.
    """
    model_type = getattr(config, "model_type", type(config).__name__)
    for family in FAMILIES:
        if model_type.removeprefix(PRUNED) in family.model_types:
            return family
    for attributes, reason, instead in UNSUPPORTED:
        if any(getattr(config, name, None) not in (None, 0) for name in attributes):
            raise UserError(
                f"models of type '{model_type}' cannot be pruned: {reason}", f"{instead}; supported types: {SUPPORTED}"
            )
    raise UserError(
        f"no declaration of coupled structures for models of type '{model_type}'",
        f"supported types: {SUPPORTED}; a new one is declared in reproducer/models/families.py",
    )


def architecture_of(model: nn.Module) -> Architecture:
    """The declaration for `model`.

    Raises:
        UserError: no family lists its `model_type`, or a declared module is missing or no plain linear layer
            (quantised models are refused by name).
    """
    family = family_of(getattr(model, "config", model))
    if not type(model).__name__.endswith("ForCausalLM"):
        raise UserError(
            f"a {type(model).__name__} is no causal language model of its own",
            "load it with AutoModelForCausalLM; of a model that peft has wrapped, merge the adapter first",
        )
    _check(model, family)
    return family


def _check(model: Any, family: Architecture) -> None:
    from torch import nn

    for index, layer in enumerate(family.decoder_layers(model)):
        for path in family.modules():
            try:
                module = layer.get_submodule(path)
            except AttributeError:
                raise UserError(f"layer {index} of this {model.config.model_type} model has no {path}") from None
            if type(module) is not nn.Linear:
                raise UserError(
                    f"layer {index}'s {path} is a {type(module).__name__}; only linear layers are pruned",
                    "load the model unquantised, and merge adapters before pruning",
                )
            if not module.weight.is_floating_point():
                raise UserError(
                    f"layer {index}'s {path} holds its weight as {str(module.weight.dtype).removeprefix('torch.')}; "
                    "only floating-point weights are pruned",
                    "load the model unquantised",
                )
        attention: Any = layer.get_submodule(family.attention)
        declared = {norm.module.rpartition(".")[2] for kind in family.kinds for norm in kind.norms}
        for name in {"q_norm", "k_norm"} - declared:
            norm = getattr(attention, name, None)
            if norm is not None and norm.weight.shape != (attention.head_dim,):
                raise UserError(f"layer {index}'s {name} spans several heads; such models cannot be pruned by heads")
