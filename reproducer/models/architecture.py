"""Which weight rows and columns an architecture couples: declared as data, one declaration a family.

Scoring, counting, allocation and surgery all read the same declaration. To add an architecture whose decoder layers
couple their weights in the same way, add its `model_type` to a family; for one that does not, declare a new family.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, cast

from torch import nn

from reproducer.errors import UserError

Kind = Literal["heads", "channels"]
KINDS: tuple[Kind, Kind] = ("heads", "channels")


@dataclass(frozen=True)
class Member:
    """One weight of a coupled structure.

    Attributes:
        module: where the linear layer sits inside a decoder layer.
        axis: 0 if the structure owns rows of the weight (output features), 1 if it owns columns.
        vectors: what one unit owns: `query` rows of all query heads of its key-value group, `key_value` one head's
            rows, `channel` one row or column.
    """

    module: str
    axis: Literal[0, 1]
    vectors: Literal["query", "key_value", "channel"]


@dataclass(frozen=True)
class Architecture:
    """A family of causal language models with the same coupled structures and the same module names."""

    family: str
    model_types: tuple[str, ...]
    heads: tuple[Member, ...]
    channels: tuple[Member, ...]
    embedding: str = "model.embed_tokens"
    decoder: str = "model"
    layers: str = "model.layers"
    norm: str = "model.norm"
    head: str = "lm_head"

    def members(self, kind: Kind) -> tuple[Member, ...]:
        return self.heads if kind == "heads" else self.channels

    def decoder_layers(self, model: nn.Module) -> nn.ModuleList:
        return attrgetter(self.layers)(model)


LLAMA = Architecture(
    family="LLaMA",
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    heads=(
        Member("self_attn.q_proj", 0, "query"),
        Member("self_attn.k_proj", 0, "key_value"),
        Member("self_attn.v_proj", 0, "key_value"),
        Member("self_attn.o_proj", 1, "query"),
    ),
    channels=(
        Member("mlp.gate_proj", 0, "channel"),
        Member("mlp.up_proj", 0, "channel"),
        Member("mlp.down_proj", 1, "channel"),
    ),
)

FAMILIES = (LLAMA,)


@dataclass(frozen=True)
class LayerShape:
    """The widths of one decoder layer, read from its weights: layers that were pruned before differ from the config."""

    hidden: int
    head_dim: int
    groups: int
    queries_per_group: int
    channels: int

    def units(self, kind: Kind) -> int:
        """How many prunable units: key-value groups with their query heads (heads if each has its own), channels."""
        return self.groups if kind == "heads" else self.channels

    def vectors_per_unit(self, member: Member) -> int:
        """Rows or columns of `member`'s weight that one unit owns."""
        return {
            "query": self.queries_per_group * self.head_dim,
            "key_value": self.head_dim,
            "channel": 1,
        }[member.vectors]


def architecture_of(model: nn.Module) -> Architecture:
    """The declaration for `model`.

    Raises:
        UserError: no family lists its `model_type`, or a declared module is missing or no plain linear layer
            (quantised models are refused by name).
    """
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    for family in FAMILIES:
        if model_type in family.model_types:
            if not type(model).__name__.endswith("ForCausalLM"):
                raise UserError(
                    f"a {type(model).__name__} is no causal language model of its own",
                    "load it with AutoModelForCausalLM; of a model that peft has wrapped, merge the adapter first",
                )
            _check(model, family, model_type)
            return family
    known = ", ".join(name for family in FAMILIES for name in family.model_types)
    raise UserError(
        f"no declaration of coupled structures for models of type '{model_type}'",
        f"supported types: {known}; a new one is declared in reproducer/models/architecture.py",
    )


def _check(model: nn.Module, family: Architecture, model_type: str) -> None:
    for index, layer in enumerate(family.decoder_layers(model)):
        for member in (*family.heads, *family.channels):
            try:
                module = layer.get_submodule(member.module)
            except AttributeError:
                raise UserError(f"layer {index} of this {model_type} model has no {member.module}") from None
            if type(module) is not nn.Linear:
                raise UserError(
                    f"layer {index}'s {member.module} is a {type(module).__name__}; only linear layers are pruned",
                    "load the model unquantised, and merge adapters before pruning",
                )
        attention: Any = layer.get_submodule("self_attn")
        for name in ("q_norm", "k_norm"):
            norm = getattr(attention, name, None)
            if norm is not None and norm.weight.shape != (attention.head_dim,):
                raise UserError(f"layer {index}'s {name} spans several heads; such models cannot be pruned by heads")


def layer_shape(layer: nn.Module) -> LayerShape:
    """The widths of a decoder layer of a declared family, from its weights (a meta device will do)."""
    queries, keys = linear_at(layer, "self_attn.q_proj"), linear_at(layer, "self_attn.k_proj")
    attention: Any = layer.get_submodule("self_attn")
    groups = keys.out_features // attention.head_dim
    return LayerShape(
        hidden=queries.in_features,
        head_dim=attention.head_dim,
        groups=groups,
        queries_per_group=queries.out_features // attention.head_dim // groups,
        channels=linear_at(layer, "mlp.gate_proj").out_features,
    )


def linear_at(layer: nn.Module, path: str) -> nn.Linear:
    """The linear module at a dotted path of `layer`."""
    return cast(nn.Linear, layer.get_submodule(path))


def unit_parameters(layer: nn.Module, architecture: Architecture, kind: Kind) -> int:
    """Parameters that leave the model with one unit of `layer`: weights and the biases of its rows."""
    shape = layer_shape(layer)
    total = 0
    for member in architecture.members(kind):
        linear = linear_at(layer, member.module)
        length = linear.weight.shape[1 - member.axis]
        biased = member.axis == 0 and linear.bias is not None
        total += shape.vectors_per_unit(member) * (length + int(biased))
    return total


def parameter_count(model: nn.Module) -> int:
    """All parameters, shared ones (tied embeddings) counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
