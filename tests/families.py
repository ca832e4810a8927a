"""A tiny random model of every declared family, in the variants that its configuration allows."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

from reproducer.models.architecture import architecture_of, family_of, layer_shape
from reproducer.models.families import FAMILIES
from tests.helpers import randomise, subset

VOCABULARY, LENGTH = 61, 64

# Keywords of `family_model` for one model of each kind; the first word is the model type.
ZOO: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama biased": {"attention_bias": True, "mlp_bias": True},
    "llama grouped tied": {"heads": 6, "groups": 2, "hidden": 36, "tied": True},
    "mistral window": {"groups": 2, "sliding_window": 4},
    "qwen2 window": {"groups": 2, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3 tied": {"heads": 6, "groups": 3, "hidden": 36, "tied": True},
    "smollm3": {"groups": 2, "no_rope_layers": [1, 0, 1]},
    "smollm3 window": {"no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 4},
    "olmo clipped": {"groups": 2, "clip_qkv": 0.7},
    "granite": {
        "groups": 2,
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "logits_scaling": 1.7,
    },
    "granite biased tied": {"attention_bias": True, "mlp_bias": True, "logits_scaling": 3.0, "tied": True},
    "gemma": {"groups": 1, "tied": True},
    "gemma2": {
        "groups": 2,
        "tied": True,
        "sliding_window": 4,
        "query_pre_attn_scalar": 19,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 1.5,
    },
    "gemma2 biased": {"attention_bias": True, "final_logit_softcapping": None},
    "gemma3_text": {
        "groups": 2,
        "tied": True,
        "sliding_window": 4,
        "query_pre_attn_scalar": 19,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "gemma3_text capped": {"final_logit_softcapping": 1.5},
    "olmo2": {"rms_norm_eps": 0.1},
    "olmo2 grouped biased": {"heads": 6, "groups": 2, "hidden": 36, "attention_bias": True, "rms_norm_eps": 0.1},
    "olmo3 window": {
        "rms_norm_eps": 0.1,
        "groups": 2,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "phi3": {},
    "phi3 grouped tied": {"heads": 6, "groups": 2, "hidden": 48, "tied": True},
    "phi3 partial window": {"groups": 2, "sliding_window": 4, "partial_rotary_factor": 0.5},
    "gpt_neox": {},
    "gpt_neox in series": {"use_parallel_residual": False, "attention_bias": False, "tied": True},
    "opt": {"tied": True},
    "opt projected": {"word_embed_proj_dim": 20, "tied": True},
    "opt norm behind": {"do_layer_norm_before": False, "word_embed_proj_dim": 20},
    "opt bare": {"enable_bias": False, "layer_norm_elementwise_affine": False},
}

# Kinds for all but the proof that a sliced model equals a masked one: grouped queries and windows, parallel residuals,
# learned positions, joined projections, norms over all heads, capped and scaled logits.
SIX = ("qwen2 window", "gemma2", "olmo2", "phi3 grouped tied", "gpt_neox", "opt")


def family_model(
    name: str,
    *,
    seed: int = 0,
    layers: int = 3,
    heads: int = 4,
    groups: int | None = None,
    head_dim: int | None = None,
    hidden: int = 32,
    channels: int = 24,
    tied: bool = False,
    dtype: torch.dtype = torch.float64,
    **more: Any,
) -> Any:
    """A random model of the type that `name` begins with; every parameter, biases too, differs from its neighbours.

    Args:
        head_dim: where the type has a head width of its own; else hidden / heads.
    """
    kind = name.split()[0]
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": LENGTH,
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "ffn_dim" if kind == "opt" else "intermediate_size": channels,
        **more,
    }
    if kind not in FIXED_WIDTH:
        settings |= {"num_key_value_heads": groups or heads}
    if kind not in SQUARE:
        settings |= {"head_dim": head_dim or hidden // heads}
    if kind == "phi3":
        settings |= {"original_max_position_embeddings": LENGTH}
    config = AutoConfig.for_model(kind, **settings)
    return randomise(AutoModelForCausalLM.from_config(config, dtype=dtype).eval(), seed)


FIXED_WIDTH = ("gpt_neox", "opt")  # every head has keys and values of its own
SQUARE = ("gpt_neox", "opt", "phi3", "granite", "smollm3", "olmo", "olmo2", "olmo3", "qwen2")  # no head_dim


class Double(TorchFunctionMode):
    """In it the parts of a float64 model that transformers computes in float32, norms and softmax, are float64 too."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64:
            if function is torch.Tensor.float:
                return args[0]
            if function is torch.Tensor.to:
                args = tuple(torch.float64 if argument is torch.float32 else argument for argument in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return function(*args, **kwargs)


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The decoder layers."""
    return family_of(model.config).decoder_layers(model)


def zeroed(model: Any, kept: Mapping[int, Mapping[str, Sequence[int]]]) -> Any:
    """A copy of `model`, as wide as it was, in which every weight and bias of a structure that is not kept is zero.

    Written out by hand for each way in which a family stores its heads; nothing of it uses the declarations' members.

    Args:
        kept: {layer: {"heads": units, "channels": units}}; a kind that is absent keeps all.
    """
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for index, of_layer in kept.items():
            layer = layers_of(twin)[index]
            shape = layer_shape(layer, architecture_of(model))
            for kind, units in of_layer.items():
                for unit in set(range(shape.counts[kind])) - set(units):
                    _zero(layer, model.config.model_type, kind, unit, shape)
    return twin


def _zero(layer: Any, model_type: str, kind: str, unit: int, shape: Any) -> None:
    def rows(module: nn.Linear, start: int, count: int) -> None:
        module.weight[start : start + count] = 0
        if module.bias is not None:
            module.bias[start : start + count] = 0

    width, share, groups = shape.head_dim, shape.queries_per_group, shape.groups
    if kind == "channels":
        match model_type:
            case "phi3":
                rows(layer.mlp.gate_up_proj, unit, 1)
                rows(layer.mlp.gate_up_proj, shape.channels + unit, 1)
                layer.mlp.down_proj.weight[:, unit] = 0
            case "gpt_neox":
                rows(layer.mlp.dense_h_to_4h, unit, 1)
                layer.mlp.dense_4h_to_h.weight[:, unit] = 0
            case "opt":
                rows(layer.fc1, unit, 1)
                layer.fc2.weight[:, unit] = 0
            case _:
                rows(layer.mlp.gate_proj, unit, 1)
                rows(layer.mlp.up_proj, unit, 1)
                layer.mlp.down_proj.weight[:, unit] = 0
        return
    queries, keys = unit * share * width, unit * width
    match model_type:
        case "phi3":
            whole = layer.self_attn.qkv_proj
            rows(whole, queries, share * width)
            rows(whole, groups * share * width + keys, width)
            rows(whole, groups * share * width + groups * width + keys, width)
            output = layer.self_attn.o_proj
        case "gpt_neox":
            rows(layer.attention.query_key_value, 3 * keys, 3 * width)
            output = layer.attention.dense
        case _:
            rows(layer.self_attn.q_proj, queries, share * width)
            rows(layer.self_attn.k_proj, keys, width)
            rows(layer.self_attn.v_proj, keys, width)
            output = layer.self_attn.out_proj if model_type == "opt" else layer.self_attn.o_proj
    output.weight[:, queries : queries + share * width] = 0


def random_kept(model: nn.Module, seed: int) -> dict[int, dict[str, list[int]]]:
    """Any units of any layers, at least one of each kind; some layers keep all of a kind."""
    generator = np.random.default_rng(seed)
    architecture = architecture_of(model)
    kept: dict[int, dict[str, list[int]]] = {}
    for index, layer in enumerate(layers_of(model)):
        kept[index] = {}
        for kind, count in layer_shape(layer, architecture).counts.items():
            if generator.random() < 0.8:
                kept[index][kind] = subset(count, generator.integers(1, count + 1), generator)
    return kept


@st.composite
def family_shapes(draw: Any) -> dict[str, Any]:
    """Keywords for `family_model`, its `name` included: any kind of `ZOO`, of any shape."""
    name = draw(st.sampled_from(sorted(ZOO)))
    kind, more = name.split()[0], dict(ZOO[name])
    groups = draw(st.integers(1, 4))
    heads = groups * (1 if kind in FIXED_WIDTH else draw(st.integers(1, 3)))
    width = draw(st.sampled_from([4, 8]))  # even, also where half of it rotates
    shape = {**more, "name": name, "groups": groups, "heads": heads, "hidden": heads * width}
    if kind not in SQUARE:
        shape |= {"head_dim": draw(st.sampled_from([2, 4, 8]))}
    return {**shape, "channels": draw(st.integers(2, 40)), "seed": draw(st.integers(0, 999))}


assert {name.split()[0] for name in ZOO} == {name for family in FAMILIES for name in family.model_types}
