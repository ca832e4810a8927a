"""Instruction data for recovery, in Alpaca's format."""

from collections.abc import Mapping

from reproducer.data.sources import Source, find_source

FIELDS = ("instruction", "input", "output")

INSTRUCTIONS: Mapping[str, Source] = {
    "alpaca": Source("tatsu-lab/alpaca", "default", "train", "output"),
    "builtin-instructions": Source("builtin/instructions", None, "train", "output"),
}


def instruction_source(name: str) -> Source:
    """The source that a name stands for, with nothing read: of the catalogue, of the hub, or a .jsonl file.

    Raises:
        UserError: an unknown name (with the nearest right one) or a missing file.
    """
    endings = (".jsonl", ".jsonl.gz")  # a text file has no fields
    return find_source("instruction data", name, INSTRUCTIONS, "train", "output", endings=endings)


def load_instructions(name: str, limit: int | None = None) -> list[dict[str, str]]:
    """Read instruction rows: `instruction`, `input` (may be empty) and `output`.

    Args:
        name: as `instruction_source`.
        limit: keep the first rows only.

    Raises:
        UserError: as `instruction_source`.
        DataError: not found, empty or damaged; a missing field with file and line.
    """
    rows = instruction_source(name).read()
    columns = [rows.strings(field)[:limit] for field in FIELDS]
    return [dict(zip(FIELDS, values, strict=True)) for values in zip(*columns, strict=True)]


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
