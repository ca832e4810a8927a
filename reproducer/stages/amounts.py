"""How much there is to read: an estimate is made before anything is fetched, so the usual sizes are written down here.

Counted once, on whole splits. Of other data a file's size is looked up, and what is elsewhere is taken for `OTHER_…`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

# LLaMA's tokenizer makes a token of 3.8 characters of WikiText2, SmolLM2's of 4.2 (of ARC's questions of 4.9).
CHARACTERS_PER_TOKEN = 4.0

# Characters of a text by what it is read for. The built-in ones come with Python and differ a little between versions.
TEXTS: Mapping[tuple[str, str], int] = {
    ("wikitext2", "report"): 1_294_000,
    ("wikitext2", "search"): 1_125_000,
    ("ptb", "report"): 396_000,
    ("ptb", "search"): 446_000,
    ("python-topics", "report"): 50_000,
    ("python-topics", "search"): 50_000,
    ("python-docstrings", "report"): 63_000,
    ("python-docstrings", "search"): 64_000,
}
OTHER_TEXT = 1_000_000


class Task(NamedTuple):
    """Items; sequences scored an item (its choices; those of one token share a sequence); characters of a sequence."""

    items: int
    sequences: float
    characters: int


TASKS: Mapping[str, Task] = {
    "boolq": Task(3270, 1, 626),
    "piqa": Task(1838, 2, 153),
    "hellaswag": Task(10042, 4, 362),
    "winogrande": Task(1267, 2, 106),
    "arc_easy": Task(2376, 3.4, 155),
    "arc_challenge": Task(1172, 3.7, 180),
    "openbookqa": Task(500, 3.3, 73),
    "quiz": Task(112, 2.4, 64),
}
OTHER_TASK = Task(2000, 4, 200)


class Instructions(NamedTuple):
    """Rows, and characters of a row in the prompt's format."""

    rows: int
    characters: int


INSTRUCTIONS: Mapping[str, Instructions] = {
    "alpaca": Instructions(52_002, 510),
    "builtin-instructions": Instructions(64, 290),
}
OTHER_INSTRUCTIONS = Instructions(50_000, 510)
RESPONSE = 0.5  # of a row's tokens: what is learned


def text(recipe: Mapping[str, Any]) -> int:
    """About how many characters the text of a recipe (name, role, source) has."""
    return TEXTS.get((recipe["name"], recipe["role"])) or _file_size(recipe["source"]) or OTHER_TEXT


def task(name: str, limit: int | None) -> Task:
    """About the size of a task of which only the first `limit` items count."""
    found = TASKS.get(name, OTHER_TASK)
    return found._replace(items=min(found.items, limit or found.items))


def instructions(name: str, source: Mapping[str, Any], limit: int | None) -> Instructions:
    """About the size of instruction data of which only the first `limit` rows count."""
    found = INSTRUCTIONS.get(name, OTHER_INSTRUCTIONS)
    if size := _file_size(source):
        found = found._replace(rows=max(1, size // found.characters))
    return found._replace(rows=min(found.rows, limit or found.rows))


def _file_size(source: Mapping[str, Any]) -> int | None:
    """Bytes of the file that a source is (about three times as many if it is compressed); None: it is no file."""
    path = Path(source.get("path", ""))
    return path.stat().st_size * (3 if path.suffix == ".gz" else 1) if path.is_file() else None
