"""Random weights on which pruning has something to tell apart: written to a folder, or made in place while loading."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproducer.models.architecture import family_of
from reproducer.models.quiet import quiet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

SPREAD = 0.5  # standard deviation of the logarithm of a unit's scale
SEED = "random.json"  # in the directory of a model whose weights are made while it loads


def write_random(config: Mapping[str, Any], seed: int, directory: Path) -> None:
    """Write a model with random weights and the byte tokenizer to `directory`, as `save_pretrained` would.

    Args:
        config: what its config.json holds, `model_type` included.
        seed: determines the weights, with the config.
        directory: exists and is empty.
    """
    import torch
    from safetensors.torch import save_file

    model = draw_model(_write_config(config, directory), seed, torch.float32)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def write_seed(config: Mapping[str, Any], seed: int, directory: Path) -> None:
    """Write what `draw_model` needs, config, seed and the byte tokenizer, and no weights."""
    _write_config(config, directory)
    (directory / SEED).write_text(json.dumps({"seed": seed}), encoding="utf-8")


def draw_model(
    config: PreTrainedConfig,
    seed: int,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
) -> PreTrainedModel:
    """A model of `config` whose random weights are made in `dtype` on `device`, where they stay.

    Nothing else of its size is ever held. Config, seed, dtype and kind of device determine the weights: generators of
    a CPU and a GPU give different numbers.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with quiet(), no_init_weights(), torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            fill(weight, name, config, seed)
    return model


def fill(weight: torch.Tensor, name: str, config: PreTrainedConfig, seed: int) -> None:
    """Fill a weight of a model of a declared family in place with random numbers, by a generator on its device.

    The generator is seeded by both the weight's name and the seed, so the order in which a release of transformers
    lists them does not matter.

    transformers' own initialisation would not do: at a width of 64 a standard deviation of 0.02 leaves every block
    next to nothing of the residual stream, and all heads and channels alike. Here every layer keeps the scale of its
    input, and each head and channel has its own scale, log-normal as in trained models.
    """
    import torch

    family = family_of(config)
    generator = torch.Generator(weight.device).manual_seed(_seed_of(name, seed))
    weight.normal_(generator=generator)
    if weight.dim() == 1:
        weight.mul_(0.1).add_(0 if family.unit_norms or name.endswith(".bias") else 1)
        return
    weight.div_(math.sqrt(weight.shape[1]))
    for kind in family.kinds:
        scaled = tuple(f".{path}.weight" for path, axis in kind.modules().items() if axis == 0)
        if name.startswith(family.layers) and name.endswith(scaled):
            head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            unit = head if kind.attends else 1
            scale = torch.empty(weight.shape[0] // unit, device=weight.device).normal_(generator=generator)
            weight.mul_(torch.exp(SPREAD * scale).to(weight.dtype).repeat_interleave(unit)[:, None])


def _write_config(config: Mapping[str, Any], directory: Path) -> PreTrainedConfig:
    """Write the byte tokenizer, and the whole config that fits it."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from reproducer.models.tokenizer import byte_tokenizer

    tokenizer = byte_tokenizer()
    settings = {
        **config,
        "architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]],
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    full = AutoConfig.for_model(**settings)
    full.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return full


def _seed_of(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
