"""What dense and pruned models write after a prompt (the paper's Table 10)."""

from collections.abc import Mapping
from typing import Any

from reproducer.reporting.sections import Results, row_name
from reproducer.reporting.summary import ratio_text


def generations_section(results: Results) -> list[dict[str, Any]]:
    """A dict a prompt: `prompt` and, for every row, `name` and `lines` of its text; `paper` the same of the paper's."""
    rows = results["rows"]
    models, seeds = (len({row[name] for row in rows}) > 1 for name in ("model", "seed"))
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        for generation in row.get("generations") or []:
            entry = {"name": row_name(row, models, seeds), "lines": lines_of(generation["text"])}
            found.setdefault(generation["prompt"], []).append(entry)
    printed = [
        {"name": _paper_name(generation), "lines": lines_of(generation["text"])}
        for generation in (results.get("paper") or {}).get("generations") or []
    ]
    sections = [{"prompt": lines_of(prompt), "texts": texts, "paper": []} for prompt, texts in found.items()]
    if sections:
        sections[0]["paper"] = printed
    return sections


def lines_of(text: str) -> list[str]:
    """The lines of a text, each on one line for the report; blank lines once, none at the ends."""
    lines: list[str] = []
    for line in text.strip().splitlines():
        if line.strip() or (lines and lines[-1]):
            lines.append(line.strip())
    return lines or ["(nothing)"]


def _paper_name(generation: Mapping[str, Any]) -> str:
    ratio = "" if generation["method"] == "dense" else f", {ratio_text(generation['ratio'], None)}"
    return f"{generation['label']}{ratio}"
