"""Tiny random models of the LLaMA family, and what the tests compute without the package's own code.

What is drawn comes from numpy's generator, which gives the same numbers on every processor; torch's does not.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
RANDOM = os.environ.get("HYPOTHESIS_PROFILE", "ci") == "random"  # the profiles are in conftest.py
MEMBERS = {
    "heads": tuple(f"self_attn.{name}" for name in ATTENTION),
    "channels": tuple(f"mlp.{name}" for name in MLP),
}


def examples(count: int) -> settings:
    """Hypothesis settings: `count` examples; in the profile `random` HYPOTHESIS_EXAMPLES of them, if that is set."""
    return settings(max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", count)) if RANDOM else count)


def tiny(
    family: str = "llama",
    *,
    seed: int = 0,
    layers: int = 3,
    heads: int = 4,
    groups: int | None = None,
    head_dim: int = 8,
    hidden: int = 32,
    channels: int = 24,
    vocab: int = 61,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> nn.Module:
    """A random model whose every parameter, norms and biases too, differs from its neighbours."""
    config = CONFIGS[family](
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=channels,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups or heads,
        head_dim=head_dim,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **{"max_position_embeddings": 64, **more},
    )
    return randomise(AutoModelForCausalLM.from_config(config, dtype=dtype).eval(), seed)


Seed = int | np.random.Generator  # a generator goes on where it is


def randn(*shape: int, seed: Seed = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def rand(*shape: int, seed: Seed = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers from 0 to 1."""
    return torch.from_numpy(np.random.default_rng(seed).random(shape)).to(dtype)


def tokens(samples: int, length: int, vocab: int = 61, seed: Seed = 0) -> Tensor:
    """Token ids [samples, length]."""
    return torch.from_numpy(np.random.default_rng(seed).integers(vocab, size=(samples, length)))


def subset(count: int, size: int, seed: Seed = 0) -> list[int]:
    """So many of the numbers below `count`, sorted."""
    return sorted(np.random.default_rng(seed).permutation(count)[:size].tolist())


def randomise(model: Any, seed: int) -> Any:
    """The model with random parameters: weights that keep the scale of what goes in, and others near what they were."""
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = randn(*parameter.shape, seed=generator, dtype=torch.float64)
            matrix = parameter.dim() == 2
            parameter.copy_(noise * parameter.shape[-1] ** -0.5 if matrix else 0.2 * noise + parameter.double())
    return model


def decoder_layers(model: Any) -> nn.ModuleList:
    return model.model.layers


def widths(model: Any, layer: int) -> tuple[int, int, int]:
    """Key-value groups, query heads a group and channels of a layer, read from its weights."""
    block = decoder_layers(model)[layer]
    head_dim = block.self_attn.head_dim
    groups = block.self_attn.k_proj.weight.shape[0] // head_dim
    queries = block.self_attn.q_proj.weight.shape[0] // head_dim
    return groups, queries // groups, block.mlp.gate_proj.weight.shape[0]


def unit_vectors(model: Any, layer: int, kind: str, unit: int) -> dict[str, range]:
    """Which rows (columns of o_proj and down_proj) of each member belong to one unit."""
    if kind == "channels":
        return {name: range(unit, unit + 1) for name in MEMBERS["channels"]}
    _, share, _ = widths(model, layer)
    head_dim = decoder_layers(model)[layer].self_attn.head_dim
    own = range(unit * head_dim, (unit + 1) * head_dim)
    queries = range(unit * share * head_dim, (unit + 1) * share * head_dim)
    return dict(zip(MEMBERS["heads"], (queries, own, own, queries), strict=True))


def by_vector(name: str, matrix: Tensor) -> Tensor:
    """A member's weight (or gradients [..., out, in]) as [..., vectors, length]."""
    return matrix.transpose(-2, -1) if name.endswith(("o_proj", "down_proj")) else matrix


def sample_gradients(model: Any, ids: Tensor, layers: Iterable[int]) -> dict[int, dict[str, Tensor]]:
    """The textbook way: N backward passes over the whole model. {layer: {member: [N, vectors, length]}}."""
    model = copy.deepcopy(model).eval().requires_grad_()
    found: dict[int, dict[str, list[Tensor]]] = {i: {n: [] for k in MEMBERS for n in MEMBERS[k]} for i in layers}
    for sample in ids:
        model.zero_grad()
        logits = model(sample[None], use_cache=False).logits[0, :-1]
        wide = logits.double() if logits.dtype == torch.float64 else logits.float()
        F.cross_entropy(wide, sample[1:]).backward()
        for index, members in found.items():
            for name, gradients in members.items():
                gradient = decoder_layers(model)[index].get_submodule(name).weight.grad
                gradients.append(by_vector(name, gradient.clone()))
    return {index: {name: torch.stack(g) for name, g in members.items()} for index, members in found.items()}


VectorScore = Callable[
    [Tensor, Tensor], Tensor
]  # weight [vectors, length], gradients [N, vectors, length] -> [vectors]


def orders(weight: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """s1 = w·ḡ and s2 = w²·F of METHODS' notation, element by element."""
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    weight, gradients = weight.to(wide), gradients.to(wide)
    return weight * gradients.mean(0), weight**2 * (gradients**2).mean(0)


def expected_scores(model: Any, gradients: dict[int, dict[str, Tensor]], score: VectorScore) -> dict:
    """Scores of structures: member vectors scored one by one, summed unit by unit. {layer: {kind: [units]}}."""
    result: dict[int, dict[str, Tensor]] = {}
    for index, members in gradients.items():
        block = decoder_layers(model)[index]
        scored = {
            name: score(by_vector(name, block.get_submodule(name).weight.detach()), gradients)
            for name, gradients in members.items()
        }

        def total(kind: str, unit: int, index: int = index, scored: dict[str, Tensor] = scored) -> Tensor:
            owned = unit_vectors(model, index, kind, unit)
            return torch.stack([scored[name][list(vectors)].sum() for name, vectors in owned.items()]).sum()

        groups, _, channels = widths(model, index)
        counts = {"heads": groups, "channels": channels}
        result[index] = {kind: torch.stack([total(kind, u) for u in range(n)]) for kind, n in counts.items()}
    return result


def cut_by_hand(model: Any, kept: dict[int, dict[str, Sequence[int]]]) -> Any:
    """A copy of `model` with only these units, sliced without the package."""
    smaller = copy.deepcopy(model)
    for index, of_layer in kept.items():
        for kind, units in of_layer.items():
            for name in MEMBERS[kind]:
                module = decoder_layers(smaller)[index].get_submodule(name)
                vectors = [v for u in units for v in unit_vectors(model, index, kind, u)[name]]
                columns = name.endswith(("o_proj", "down_proj"))
                weight = module.weight.detach()
                module.weight = nn.Parameter(weight[:, vectors] if columns else weight[vectors])
                module.out_features, module.in_features = module.weight.shape
                if module.bias is not None and not columns:
                    module.bias = nn.Parameter(module.bias.detach()[vectors])
    return smaller


def masked(model: Any, plan: Any) -> Any:
    """A copy of `model`, as wide as it was, in which what the plan removes has no effect on the residual stream."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for index in range(len(decoder_layers(model))):
            groups, _, channels = widths(model, index)
            for kind, count, kept in (
                ("heads", groups, plan.kept_heads.get(index)),
                ("channels", channels, plan.kept_channels.get(index)),
            ):
                for unit in set(range(count)) - set(range(count) if kept is None else kept):
                    output = MEMBERS[kind][-1]
                    columns = list(unit_vectors(model, index, kind, unit)[output])
                    decoder_layers(twin)[index].get_submodule(output).weight[:, columns] = 0
    return twin


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def close(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether the difference is within `tolerance` of the largest expected value."""
    scale = expected.double().abs().max()
    return bool((actual.double() - expected.double()).abs().max() <= tolerance * scale)


@st.composite
def shapes(draw: Any, families: Sequence[str] = tuple(CONFIGS)) -> dict[str, Any]:
    """Keywords for `tiny`: any family, with and without grouped queries, biases and tied embeddings."""
    family = draw(st.sampled_from(families))
    groups = draw(st.integers(1, 4))
    heads = groups * draw(st.integers(1, 3))
    shape: dict[str, Any] = {
        "family": family,
        "seed": draw(st.integers(0, 999)),
        "layers": draw(st.integers(1, 4)),
        "groups": groups,
        "heads": heads,
        "head_dim": draw(st.sampled_from([2, 4, 8])),
        "hidden": heads * draw(st.integers(2, 5)),  # configurations ask for a multiple, the layers do not
        "channels": draw(st.integers(5, 40)),
        "tied": draw(st.booleans()),
    }
    if family in ("llama", "qwen3"):
        shape["attention_bias"] = draw(st.booleans())
    if family == "llama":
        shape["mlp_bias"] = draw(st.booleans())
    return shape


# One of each kind that the declaration covers, for tests that go through them by name.
ZOO: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama"},
    "llama tied": {"family": "llama", "tied": True},
    "llama grouped": {"family": "llama", "heads": 6, "groups": 2, "hidden": 36},
    "llama biased": {"family": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral grouped": {"family": "mistral", "heads": 4, "groups": 2},
    "mistral window": {"family": "mistral", "heads": 4, "groups": 2, "sliding_window": 4},
    "qwen2 tied": {"family": "qwen2", "heads": 6, "groups": 3, "tied": True},
    "qwen2 window": {"family": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3 grouped": {"family": "qwen3", "heads": 4, "groups": 2},
    "qwen3 window": {"family": "qwen3", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
}
