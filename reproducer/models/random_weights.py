"""Random weights on which pruning has something to tell apart."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SPREAD = 0.5  # standard deviation of the logarithm of a unit's scale


def write_random(config: Mapping[str, Any], seed: int, directory: Path) -> None:
    """Write a LLaMA model with random weights and the byte tokenizer to `directory`, as `save_pretrained` would.

    Config and seed alone determine the weights: each comes from a generator of its own, seeded by both its name and
    the seed, so the order in which a release of transformers lists them does not matter.

    transformers' own initialisation would not do: at a width of 64 a standard deviation of 0.02 leaves every block
    next to nothing of the residual stream, and all heads and channels alike. Here every layer keeps the scale of its
    input, and each head and channel has its own scale, log-normal as in trained models.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

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
    head_dim = full.head_dim or full.hidden_size // full.num_attention_heads
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in LlamaForCausalLM(full).named_parameters()}
    weights = {}
    for name, shape in shapes.items():
        generator = torch.Generator().manual_seed(_seed_of(name, seed))
        if len(shape) == 1:
            weights[name] = 1 + 0.1 * torch.randn(shape, generator=generator)
            continue
        weight = torch.randn(shape, generator=generator) / math.sqrt(full.hidden_size if "embed" in name else shape[1])
        unit = head_dim if "self_attn" in name else 1
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")):
            scale = torch.exp(SPREAD * torch.randn(shape[0] // unit, generator=generator))
            weight *= scale.repeat_interleave(unit)[:, None]
        weights[name] = weight
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    full.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _seed_of(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
