"""Random weights on which pruning has something to tell apart: written to a folder, or made in place while loading."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel

SPREAD = 0.5  # standard deviation of the logarithm of a unit's scale
SEED = "random.json"  # in the directory of a model whose weights are made while it loads


def write_random(config: Mapping[str, Any], seed: int, directory: Path) -> None:
    """Write a LLaMA model with random weights and the byte tokenizer to `directory`, as `save_pretrained` would."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    full = _write_config(config, directory)
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in LlamaForCausalLM(full).named_parameters()}
    weights = {name: fill(torch.empty(shape), name, full, seed) for name, shape in shapes.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def write_seed(config: Mapping[str, Any], seed: int, directory: Path) -> None:
    """Write what `draw_model` needs, config, seed and the byte tokenizer, and no weights."""
    _write_config(config, directory)
    (directory / SEED).write_text(json.dumps({"seed": seed}), encoding="utf-8")


def draw_model(
    config: PreTrainedConfig, seed: int, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """A model of `config` whose random weights are made where they stay, in `dtype` on `device`.

    Nothing else of its size is ever held. Config, seed, dtype and kind of device determine the weights: generators of
    a CPU and a GPU give different numbers.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights(), torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.tie_weights()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            fill(weight, name, config, seed)
    return model


def fill(weight: torch.Tensor, name: str, config: PreTrainedConfig, seed: int) -> torch.Tensor:
    """Fill a LLaMA's weight in place with random numbers, by a generator of its own on its device.

    The generator is seeded by both the weight's name and the seed, so the order in which a release of transformers
    lists them does not matter.

    transformers' own initialisation would not do: at a width of 64 a standard deviation of 0.02 leaves every block
    next to nothing of the residual stream, and all heads and channels alike. Here every layer keeps the scale of its
    input, and each head and channel has its own scale, log-normal as in trained models.
    """
    import torch

    generator = torch.Generator(weight.device).manual_seed(_seed_of(name, seed))
    weight.normal_(generator=generator)
    if weight.dim() == 1:
        return weight.mul_(0.1).add_(1)
    weight.div_(math.sqrt(config.hidden_size if "embed" in name else weight.shape[1]))
    if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
        unit = (config.head_dim or config.hidden_size // config.num_attention_heads) if "self_attn" in name else 1
        scale = torch.empty(weight.shape[0] // unit, device=weight.device).normal_(generator=generator)
        weight.mul_(torch.exp(SPREAD * scale).to(weight.dtype).repeat_interleave(unit)[:, None])
    return weight


def _write_config(config: Mapping[str, Any], directory: Path) -> LlamaConfig:
    """Write the byte tokenizer, and the whole config that fits it."""
    from transformers import LlamaConfig

    from reproducer.models.tokenizer import byte_tokenizer

    tokenizer = byte_tokenizer()
    full = LlamaConfig(
        **{
            **config,
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "dtype": "float32",
        }
    )
    full.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return full


def _seed_of(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
