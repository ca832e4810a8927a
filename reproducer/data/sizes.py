"""How much there is to read of a data set, told before it is there: for estimates of what a run takes."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from reproducer.data.sources import MIRROR

# Counted once: a data set that is not here yet cannot be asked. Characters of texts; of tasks items, sequences an item,
# characters of one (padding included), and the share of its tokens whose logits are needed; rows of instructions.
TEXTS = {
    "wikitext2": 1.2e6,
    "ptb": 0.4e6,
    "python-topics": 5e4,
    "python-docstrings": 6e4,
    "python-packages": 3e4,
    "c4": 2.4e6,
}
TASKS = {
    "boolq": (3270, 1, 600, 0.01),
    "piqa": (1838, 2, 155, 0.55),
    "hellaswag": (10042, 4, 280, 0.3),
    "winogrande": (1267, 2, 95, 0.25),
    "arc_easy": (2376, 3.3, 135, 0.15),
    "arc_challenge": (1172, 3.7, 160, 0.15),
    "openbookqa": (500, 3, 65, 0.2),
    "quiz": (112, 1.5, 70, 0.1),
}
INSTRUCTIONS = {"alpaca": 52_002, "builtin-instructions": 64}
INSTRUCTION = 510  # characters of one, in the prompt's format
OTHER_TEXT, OTHER_TASK, OTHER_INSTRUCTIONS = 1e6, (2000, 4, 200, 0.3), 50_000


def text_size(name: str, source: Mapping[str, Any]) -> float:
    """Characters of a text."""
    return TEXTS.get(name) or file_size(source) or OTHER_TEXT


def instruction_size(name: str | None, source: Mapping[str, Any]) -> tuple[int, float]:
    """Rows of instruction data, counted where it is here, and characters of one in the prompt's format."""
    path = _file(source)
    if path is None:
        return INSTRUCTIONS.get(name or "", OTHER_INSTRUCTIONS), INSTRUCTION
    rows, size = _counted(path, path.stat().st_mtime_ns)
    return rows, INSTRUCTION if name in INSTRUCTIONS else size / rows


@lru_cache
def _counted(path: Path, changed: int) -> tuple[int, int]:
    """Lines of a file, at least one, and its bytes, uncompressed."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        sizes = [len(line) for line in file if line.strip()]
    return max(1, len(sizes)), sum(sizes)


def file_size(source: Mapping[str, Any]) -> int | None:
    """Bytes of the file that a data source is, given or in the mirror, uncompressed; None: it is no file here."""
    path = _file(source)  # text is compressed to about a third
    return None if path is None else path.stat().st_size * (3 if path.suffix == ".gz" else 1)


def _file(source: Mapping[str, Any]) -> Path | None:
    if "path" in source:
        stem = source["path"]
    else:
        stem = Path(os.environ.get(MIRROR, ""), source["id"], source["configuration"] or "default", source["split"])
    paths = (Path(f"{stem}{ending}") for ending in ("", ".jsonl", ".jsonl.gz"))
    return next((path for path in paths if path.is_file()), None)


def task_size(name: str, source: Mapping[str, Any], limit: int | None) -> tuple[float, float, float]:
    """Sequences of a task's first `limit` items, characters of one, and the share of its logits that is needed."""
    items, sequences, characters, scored = TASKS.get(name, OTHER_TASK)
    if name not in TASKS and (size := file_size(source)):
        items = max(1, int(size // (sequences * characters)))
    return min(items, limit or items) * sequences, characters, scored
