"""Instruction data for recovery, in Alpaca's format."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reproducer.data.sources import Rows, Source, check_path, fingerprint, is_path, parse_source, read_rows
from reproducer.errors import UserError, nearest

FIELDS = ("instruction", "input", "output")

INSTRUCTIONS: Mapping[str, Source] = {
    "alpaca": Source("tatsu-lab/alpaca", "default", "train", "output"),
    "builtin-instructions": Source("builtin/instructions", None, "train", "output"),
}


def instruction_source(name: str) -> Source:
    """The source that a name stands for, with nothing read: a catalogue name, `org/dataset[:configuration[:split]]`
    or the path of a .jsonl file.

    Raises:
        UserError: an unknown name (with the nearest right one) or a missing file.
    """
    source = INSTRUCTIONS.get(name) or parse_source(name, split="train", field="output")
    if source is None or source.id.endswith(".txt"):
        raise UserError(
            f"unknown instruction data '{name}'",
            f"{nearest(name, list(INSTRUCTIONS))} or give org/dataset[:configuration[:split]], "
            "or the path of a .jsonl or .jsonl.gz file",
        )
    if is_path(source.id):
        check_path(source.id)
    return source


def resolve_instructions(name: str) -> dict[str, Any]:
    """Check a name and return its identity for a recipe key (JSON values). UserError as `instruction_source`."""
    return instruction_source(name).identity()


def instructions_fingerprint(name: str) -> str:
    """Today's fingerprint of instruction data, without parsing it."""
    source = instruction_source(name)
    return fingerprint(source.id, source.configuration, source.split)


def load_instructions(name: str, limit: int | None = None) -> Rows:
    """Read instruction rows: `instruction`, `input` (may be empty) and `output`.

    Args:
        name: as `instruction_source`.
        limit: keep the first rows only.

    Raises:
        UserError: as `instruction_source`.
        DataError: not found, empty or damaged; a missing field with file and line.
    """
    source = instruction_source(name)
    rows = read_rows(source.id, source.configuration, source.split)
    columns = [rows.strings(field) for field in FIELDS]
    kept = [dict(zip(FIELDS, values, strict=True)) for values in zip(*columns, strict=True)]
    return replace(rows, rows=kept[:limit])


def format_prompt(row: Mapping[str, str]) -> tuple[str, str]:
    """One row in the prompt format of Stanford Alpaca.

    Returns:
        The prompt, up to where the model goes on, and the response that it should give.
    """
    if row["input"]:
        task = "an instruction that describes a task, paired with an input that provides further context"
        body = f"### Instruction:\n{row['instruction']}\n\n### Input:\n{row['input']}"
    else:
        task = "an instruction that describes a task"
        body = f"### Instruction:\n{row['instruction']}"
    prompt = f"Below is {task}. Write a response that appropriately completes the request.\n\n{body}\n\n### Response:\n"
    return prompt, row["output"]
