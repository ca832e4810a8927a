"""Which weight rows and columns an architecture couples: declared as data, one declaration a family.

Statistics, scoring, counting, allocation, surgery and random weights all read the same declaration. To add an
architecture whose decoder layers couple their weights as a family here does, add its `model_type` to that family; for
one that does not, declare a new family. `tests/families.py` then needs a configuration of it, and the tests prove that
slicing equals masking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from typing import Any, Literal, cast

from torch import nn

from reproducer.errors import UserError

Kind = Literal["heads", "channels"]
KINDS: tuple[Kind, Kind] = ("heads", "channels")
Vectors = Literal["query", "key_value", "fused", "channel"]


@dataclass(frozen=True)
class Member:
    """One weight, or one part of a fused weight, of a coupled structure.

    Attributes:
        module: where the linear layer sits inside a decoder layer.
        axis: 0 if the structure owns rows of the weight (output features), 1 if it owns columns.
        vectors: what one unit owns: `query` the rows of all query heads of its key-value group, `key_value` one head's
            rows, `fused` the rows [query, key, value] of one head side by side, `channel` one row or column.
        after: the vectors of the same weight that stand in front of this member's, where several share a weight.
    """

    module: str
    axis: Literal[0, 1]
    vectors: Vectors
    after: tuple[Vectors, ...] = ()


@dataclass(frozen=True)
class Norm:
    """A root-mean-square norm over the outputs of all heads together (OLMo 2), which shrinks with them."""

    module: str
    vectors: Vectors


@dataclass(frozen=True)
class Width:
    """An attribute from which a forward pass reads a width.

    Attributes:
        module: the module inside a decoder layer that has the attribute.
        attribute: its name; `config.NAME` where the module reads it from the model's configuration.
        counts: what it counts: query heads, key-value groups or MLP channels.
    """

    module: str
    attribute: str
    counts: Literal["queries", "groups", "channels"]


@dataclass(frozen=True)
class Architecture:
    """A family of causal language models with the same coupled structures and the same module names.

    Attributes:
        family: its name for people.
        model_types: the `model_type` of the configurations that belong to it.
        heads: weights of an attention head (of a key-value group with its query heads); the output projection is last.
        channels: weights of an MLP channel; the output projection is last.
        decoder: path of the decoder, which holds the decoder layers as `layers`.
        head: path of the language-model head.
        attention: path of the attention inside a decoder layer, and `head_dim` the attribute that tells a head's width.
        norms: norms over all heads together.
        widths: attributes that state a width.
        logit_divisor: the configuration's attribute by which the head's output is divided, if any.
        logit_cap: the configuration's attribute c of a final c·tanh(logits / c), if any.
        unit_norms: norm weights are offsets from one.
        norms_behind: by kind, the norm between the output projection and the residual stream, where there is one.
        branch_scale: attribute of a decoder layer by which its branches are multiplied, if any.
        stream_norm: the norm of the residual stream itself, in layers that have `do_layer_norm_before` off.
    """

    family: str
    model_types: tuple[str, ...]
    heads: tuple[Member, ...]
    channels: tuple[Member, ...]
    decoder: str = "model"
    head: str = "lm_head"
    attention: str = "self_attn"
    head_dim: str = "head_dim"
    norms: tuple[Norm, ...] = ()
    widths: tuple[Width, ...] = ()
    logit_divisor: str | None = None
    logit_cap: str | None = None
    unit_norms: bool = False
    norms_behind: Mapping[Kind, str] = field(default_factory=dict)
    branch_scale: str | None = None
    stream_norm: str | None = None

    def norm_of_stream(self, layer: nn.Module) -> nn.Module | None:
        """The norm that a layer applies to the residual stream itself, behind the MLP's sum, if it does."""
        if self.stream_norm is None or getattr(layer, "do_layer_norm_before", True):
            return None
        return layer.get_submodule(self.stream_norm)

    def members(self, kind: Kind | None = None) -> tuple[Member, ...]:
        """Members of the structures of a kind; of both without one."""
        return {None: (*self.heads, *self.channels), "heads": self.heads, "channels": self.channels}[kind]

    def output(self, kind: Kind) -> str:
        """Path of the projection that the structures of a kind feed; its columns are theirs."""
        return self.members(kind)[-1].module

    def modules(self, kind: Kind | None = None) -> dict[str, Literal[0, 1]]:
        """{path of a linear module in a decoder layer: axis that the structures own}; each fused module once."""
        return {member.module: member.axis for member in self.members(kind)}

    @cached_property
    def layers(self) -> str:
        """Path of the decoder layers."""
        return f"{self.decoder}.layers"

    def decoder_of(self, model: nn.Module) -> nn.Module:
        return attrgetter(self.decoder)(model)

    def decoder_layers(self, model: nn.Module) -> nn.ModuleList:
        return attrgetter(self.layers)(model)

    def head_of(self, model: nn.Module) -> nn.Linear:
        return attrgetter(self.head)(model)


SEPARATE_HEADS = (
    Member("self_attn.q_proj", 0, "query"),
    Member("self_attn.k_proj", 0, "key_value"),
    Member("self_attn.v_proj", 0, "key_value"),
    Member("self_attn.o_proj", 1, "query"),
)
GATED_CHANNELS = (
    Member("mlp.gate_proj", 0, "channel"),
    Member("mlp.up_proj", 0, "channel"),
    Member("mlp.down_proj", 1, "channel"),
)
MLP_WIDTH = Width("mlp", "intermediate_size", "channels")

LLAMA = Architecture(
    family="LLaMA",
    model_types=("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo"),
    heads=SEPARATE_HEADS,
    channels=GATED_CHANNELS,
    widths=(MLP_WIDTH,),
)
GRANITE = replace(
    LLAMA,
    family="Granite",
    model_types=("granite",),
    logit_divisor="logits_scaling",
    branch_scale="residual_multiplier",
)
NORMS_BEHIND: Mapping[Kind, str] = {"heads": "post_attention_layernorm", "channels": "post_feedforward_layernorm"}
GEMMA = replace(LLAMA, family="Gemma", model_types=("gemma",), unit_norms=True)
GEMMA2 = replace(
    GEMMA,
    family="Gemma 2 and 3",
    model_types=("gemma2", "gemma3_text"),
    logit_cap="final_logit_softcapping",
    norms_behind=NORMS_BEHIND,
)
OLMO2 = replace(
    LLAMA,
    family="OLMo 2",
    model_types=("olmo2", "olmo3"),
    norms_behind=NORMS_BEHIND,
    norms=(Norm("self_attn.q_norm", "query"), Norm("self_attn.k_norm", "key_value")),
)
PHI3 = Architecture(
    family="Phi-3",
    model_types=("phi3",),
    heads=(
        Member("self_attn.qkv_proj", 0, "query"),
        Member("self_attn.qkv_proj", 0, "key_value", after=("query",)),
        Member("self_attn.qkv_proj", 0, "key_value", after=("query", "key_value")),
        Member("self_attn.o_proj", 1, "query"),
    ),
    channels=(
        Member("mlp.gate_up_proj", 0, "channel"),
        Member("mlp.gate_up_proj", 0, "channel", after=("channel",)),
        Member("mlp.down_proj", 1, "channel"),
    ),
    widths=(
        Width("self_attn", "config.num_attention_heads", "queries"),
        Width("self_attn", "num_key_value_heads", "groups"),
    ),
)
GPT_NEOX = Architecture(
    family="GPT-NeoX",
    model_types=("gpt_neox",),
    heads=(Member("attention.query_key_value", 0, "fused"), Member("attention.dense", 1, "query")),
    channels=(Member("mlp.dense_h_to_4h", 0, "channel"), Member("mlp.dense_4h_to_h", 1, "channel")),
    decoder="gpt_neox",
    attention="attention",
    head_dim="head_size",
)
OPT = Architecture(
    family="OPT",
    model_types=("opt",),
    heads=(*SEPARATE_HEADS[:3], Member("self_attn.out_proj", 1, "query")),
    channels=(Member("fc1", 0, "channel"), Member("fc2", 1, "channel")),
    decoder="model.decoder",
    widths=(Width("self_attn", "num_heads", "queries"),),
    stream_norm="final_layer_norm",
)

FAMILIES = (LLAMA, GRANITE, GEMMA, GEMMA2, OLMO2, PHI3, GPT_NEOX, OPT)
PRUNED = "pruned_"
"""What stands before the `model_type` of a model that was exported with layers of different widths."""

SUPPORTED = ", ".join(name for family in FAMILIES for name in family.model_types)

# What a configuration has that no family here could be declared for, and what would do.
UNSUPPORTED = (
    (
        ("is_encoder_decoder",),
        "it is an encoder with a decoder, whose layers also attend to the encoder",
        "a model of decoder layers alone would do",
    ),
    (
        ("text_config", "vision_config", "audio_config"),
        "it wraps a language model together with other inputs",
        "load its language model alone, with a config.json of that model's own type (gemma3_text for gemma3)",
    ),
    (
        ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "moe_intermediate_size"),
        "its layers route each token to some of several MLPs (a mixture of experts), so that a channel is not one "
        "structure of the layer",
        "a dense model of the same family would do",
    ),
    (
        ("kv_lora_rank",),
        "the keys and values of all its heads come out of one latent vector, so that heads share their weights",
        "a model with keys and values of each head, or of groups of heads, would do",
    ),
    (
        ("num_kv_shared_layers",),
        "its later layers use keys and values of earlier ones, so that layers cannot be cut independently",
        "a model whose layers have keys and values of their own would do",
    ),
    (
        ("state_size", "ssm_state_size", "mamba_d_state", "conv_L_cache", "attention_hidden_size"),
        "its layers are recurrent and have no attention heads",
        "a model with attention in every layer would do",
    ),
)


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

    def vectors_per_unit(self, member: Member | Norm) -> int:
        """Rows or columns of `member`'s weight that one unit owns."""
        return self._per_unit(member.vectors)

    def span(self, member: Member) -> slice:
        """Which rows (axis 0) or columns (axis 1) of its module's weight are the member's."""
        start = sum(self._width(vectors) for vectors in member.after)
        return slice(start, start + self._width(member.vectors))

    def _per_unit(self, vectors: Vectors) -> int:
        return {
            "query": self.queries_per_group * self.head_dim,
            "key_value": self.head_dim,
            "fused": 3 * self.head_dim,
            "channel": 1,
        }[vectors]

    def _width(self, vectors: Vectors) -> int:
        return self.units("channels" if vectors == "channel" else "heads") * self._per_unit(vectors)


def layer_shape(layer: nn.Module, architecture: Architecture) -> LayerShape:
    """The widths of a decoder layer, from its weights (a meta device will do)."""
    head_dim: int = getattr(layer.get_submodule(architecture.attention), architecture.head_dim)
    output = linear_at(layer, architecture.heads[-1].module)
    queries = output.in_features // head_dim
    source = next(member.module for member in architecture.heads if member.vectors in ("key_value", "fused"))
    shared = [member.vectors for member in architecture.heads if member.module == source]
    rows = linear_at(layer, source).out_features - shared.count("query") * queries * head_dim
    groups = rows // (head_dim * (3 if shared == ["fused"] else shared.count("key_value")))
    return LayerShape(
        hidden=output.out_features,
        head_dim=head_dim,
        groups=groups,
        queries_per_group=queries // groups,
        channels=linear_at(layer, architecture.channels[-1].module).in_features,
    )


def linear_at(layer: nn.Module, path: str) -> nn.Linear:
    """The linear module at a dotted path of `layer`."""
    return cast(nn.Linear, layer.get_submodule(path))


def unit_parameters(layer: nn.Module, architecture: Architecture, kind: Kind) -> int:
    """Parameters that leave the model with one unit of `layer`: weights, the biases of its rows, norms over heads."""
    shape = layer_shape(layer, architecture)
    total = 0
    for member in architecture.members(kind):
        linear = linear_at(layer, member.module)
        length = linear.weight.shape[1 - member.axis]
        biased = member.axis == 0 and linear.bias is not None
        total += shape.vectors_per_unit(member) * (length + int(biased))
    if kind == "heads":
        total += sum(shape.vectors_per_unit(norm) for norm in architecture.norms)
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
        f"supported types: {SUPPORTED}; a new one is declared in reproducer/models/architecture.py",
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
        declared = {norm.module.rpartition(".")[2] for norm in family.norms}
        for name in {"q_norm", "k_norm"} - declared:
            norm = getattr(attention, name, None)
            if norm is not None and norm.weight.shape != (attention.head_dim,):
                raise UserError(f"layer {index}'s {name} spans several heads; such models cannot be pruned by heads")
