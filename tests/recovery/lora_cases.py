"""What the recovery tests share: a tiny model with uneven layers, a word tokenizer, rows, settings."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import PreTrainedTokenizerFast

from reproducer.data.chat import format_prompt
from reproducer.models.training import derived_seed
from reproducer.recovery.groupwise import GroupWise
from reproducer.recovery.lora import Lora
from reproducer.recovery.registry import Job
from reproducer.recovery.training.adapter import add_adapter
from reproducer.recovery.two_source import TwoSource
from tests.helpers import cut_by_hand, tiny

ROWS = [
    {"instruction": "Name a colour.", "input": "", "output": "Blue."},
    {"instruction": "Name two colours of the sky.", "input": "At noon and at dusk.", "output": "Blue and red."},
    {"instruction": "Count to five.", "input": "", "output": "One, two, three, four, five."},
    {"instruction": "Which is larger?", "input": "five or two", "output": "Five is larger than two."},
    {"instruction": "Say nothing.", "input": "", "output": ""},
    {"instruction": "Describe the sky at noon.", "input": "", "output": "The sky at noon is blue, and it is larger."},
    {"instruction": "Which colour is the sky?", "input": "At dusk.", "output": "Red."},
]
PAIRS = [format_prompt(row) for row in ROWS]
FOLDER = TemporaryDirectory()
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def rows_file() -> str:
    path = Path(FOLDER.name, "rows.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def text_file() -> str:
    """Passages of ten to sixteen words of the rows, and some that are too short for most uses."""
    words = " ".join(part for row in ROWS for part in format_prompt(row)).split()
    lengths = [3, *range(10, 17), 4, *range(16, 9, -1)]
    path = Path(FOLDER.name, "passages.jsonl")
    path.write_text(
        "".join(json.dumps({"text": " ".join(words[7 * n : 7 * n + size])}) + "\n" for n, size in enumerate(lengths))
    )
    return str(path)


def lora(**changes: Any) -> Lora:
    return Lora(**_settings() | changes)


def groupwise(**changes: Any) -> GroupWise:
    return GroupWise(**_settings() | {"bits": 3, "group": 6} | changes)


def two_source(**changes: Any) -> TwoSource:
    text = {"text_pool": 12, "text_share": 0.4, "text_length": 10, "text_steps": 4, "text_warmup_steps": 1}
    return TwoSource(**_settings() | {"text": text_file(), **text} | changes)


def job(directory: Path, seed: int = 0, model: Any = None, **more: Any) -> Job:
    """A job on `model`, by default `uneven_llama`, whose dense model is another one of its kind."""
    options = {"dense": lambda: uneven_llama(seed=7), **more}
    return Job(model or uneven_llama(), word_tokenizer(), directory, seed, **options)


def _settings() -> dict[str, Any]:
    return {
        "dataset": rows_file(),
        "rank": 4,
        "alpha": 8.0,
        "dropout": 0.0,
        "learning_rate": 1e-2,
        "epochs": 4,
        "batch": 4,
        "micro_batch": 2,
        "cutoff": 96,
        "warmup_steps": 2,
    }


NINE_STEPS = {
    "lora": lora(dropout=0.2, epochs=5),  # over 5 epochs of 7 rows
    "groupwise": groupwise(dropout=0.2, epochs=5),
    "two-source": two_source(dropout=0.2, epochs=5, steps=5),  # four on text, with epochs of five passages
}


def fresh_adapter(model: Any, settings: Lora, seed: int) -> Any:
    """peft's model with the adapter that a training of this seed starts with."""
    options = settings.model_dump(include={"rank", "alpha", "dropout", "targets"})
    return add_adapter(model, derived_seed(seed, "adapter"), **options)


def word_tokenizer(rows: list[dict[str, Any]] = ROWS) -> PreTrainedTokenizerFast:
    """One token a word; it has an end token and no padding token."""
    words = Whitespace().pre_tokenize_str(" ".join(part for row in rows for part in format_prompt(row)))
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(["<unk>", "</s>", *(w for w, _ in words)]))}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


def uneven_llama(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """Three layers with grouped-query attention; the second has half the heads and the last two fewer channels."""
    model = tiny(seed=seed, groups=2, channels=48, vocab=160, max_position_embeddings=128)
    kept = {1: {"heads": range(1), "channels": range(20)}, 2: {"channels": range(33)}}
    return cut_by_hand(model, kept).to(dtype)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below `directory` by its relative path."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
