"""The declared families of architectures, a declaration each.

To add an architecture whose decoder layers couple their weights as a family here does, add its `model_type` to that
family; for one that does not, declare a new family, with further kinds of units where it has them. `tests/families.py`
then needs a configuration of it, and the tests prove that slicing equals masking.
"""

from __future__ import annotations

from dataclasses import replace

from reproducer.models.declaration import Architecture, Kind, Member, Norm, Width


def _heads(*members: Member) -> Kind:
    """Attention heads, or key-value groups with their query heads where heads share keys."""
    return Kind("heads", members)


def _channels(*members: Member) -> Kind:
    """Channels of the MLP."""
    return Kind("channels", members, fine=True)


QUERY, KEY, VALUE = (
    Member("self_attn.q_proj", 0, "query"),
    Member("self_attn.k_proj", 0, "key_value"),
    Member("self_attn.v_proj", 0, "key_value"),
)
HEADS = _heads(QUERY, KEY, VALUE, Member("self_attn.o_proj", 1, "query"))
CHANNELS = _channels(
    Member("mlp.gate_proj", 0, "single"), Member("mlp.up_proj", 0, "single"), Member("mlp.down_proj", 1, "single")
)

LLAMA = Architecture(
    family="LLaMA",
    model_types=("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo"),
    kinds=(HEADS, CHANNELS),
    widths=(Width("mlp", "intermediate_size", "channels"),),
)
GRANITE = replace(
    LLAMA,
    family="Granite",
    model_types=("granite",),
    logit_divisor="logits_scaling",
    branch_scale="residual_multiplier",
)
NORMED_HEADS = replace(HEADS, norm_behind="post_attention_layernorm")
NORMED_CHANNELS = replace(CHANNELS, norm_behind="post_feedforward_layernorm")
GEMMA = replace(LLAMA, family="Gemma", model_types=("gemma",), unit_norms=True)
GEMMA2 = replace(
    GEMMA,
    family="Gemma 2 and 3",
    model_types=("gemma2", "gemma3_text"),
    kinds=(NORMED_HEADS, NORMED_CHANNELS),
    logit_cap="final_logit_softcapping",
)
OLMO2 = replace(
    LLAMA,
    family="OLMo 2",
    model_types=("olmo2", "olmo3"),
    kinds=(
        replace(NORMED_HEADS, norms=(Norm("self_attn.q_norm", "query"), Norm("self_attn.k_norm", "key_value"))),
        NORMED_CHANNELS,
    ),
)
PHI3 = Architecture(
    family="Phi-3",
    model_types=("phi3",),
    kinds=(
        _heads(
            Member("self_attn.qkv_proj", 0, "query"),
            Member("self_attn.qkv_proj", 0, "key_value", after=("query",)),
            Member("self_attn.qkv_proj", 0, "key_value", after=("query", "key_value")),
            Member("self_attn.o_proj", 1, "query"),
        ),
        _channels(
            Member("mlp.gate_up_proj", 0, "single"),
            Member("mlp.gate_up_proj", 0, "single", after=("single",)),
            Member("mlp.down_proj", 1, "single"),
        ),
    ),
    widths=(
        Width("self_attn", "config.num_attention_heads", "queries"),
        Width("self_attn", "num_key_value_heads", "groups"),
    ),
)
GPT_NEOX = Architecture(
    family="GPT-NeoX",
    model_types=("gpt_neox",),
    kinds=(
        _heads(Member("attention.query_key_value", 0, "fused"), Member("attention.dense", 1, "query")),
        _channels(Member("mlp.dense_h_to_4h", 0, "single"), Member("mlp.dense_4h_to_h", 1, "single")),
    ),
    decoder="gpt_neox",
    attention="attention",
    head_dim="head_size",
)
OPT = Architecture(
    family="OPT",
    model_types=("opt",),
    kinds=(
        _heads(QUERY, KEY, VALUE, Member("self_attn.out_proj", 1, "query")),
        _channels(Member("fc1", 0, "single"), Member("fc2", 1, "single")),
    ),
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
