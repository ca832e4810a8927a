"""Instruction data for recovery: Alpaca's rows, chats, prompts with completions, and texts."""

from collections.abc import Mapping
from typing import Any

from reproducer.data.chat import Pair, learned_shape
from reproducer.data.sources import Source, find_source

INSTRUCTIONS: Mapping[str, Source] = {
    "alpaca": Source("tatsu-lab/alpaca", "default", "train", "output"),
    "builtin-instructions": Source("builtin/instructions", None, "train", "output"),
}


def instruction_source(name: str) -> Source:
    """The source that a name stands for, with nothing read: of the catalogue, of the hub, or a .jsonl file.

    What is asked and what is answered may be named, as in `my.jsonl:question,answer`.

    Raises:
        UserError: an unknown name (with the nearest right one) or a missing file.
    """
    endings = (".jsonl", ".jsonl.gz")  # a text file has no fields
    return find_source("instruction data", name, INSTRUCTIONS, "train", "output", endings=endings)


def load_instructions(name: str, tokenizer: Any, limit: int | None = None) -> list[Pair]:
    """What a model reads, and what it should answer, of each row (of a chat, of each answer).

    Args:
        name: as `instruction_source`.
        tokenizer: whose chat template writes chats.
        limit: keep the first rows only.

    Raises:
        UserError: as `instruction_source`.
        DataError: not found, empty or damaged; a missing field with file and line.
    """
    source = instruction_source(name)
    rows = source.read()
    return learned_shape(rows, "" if source.field == "output" else source.field).pairs(rows, tokenizer, limit)
