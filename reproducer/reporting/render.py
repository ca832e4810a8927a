"""`results` -> results.json, report.md, report.tex and figures."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reproducer.reporting import chance, checks, figures, sections, tables
from reproducer.reporting.budget import budget_section
from reproducer.reporting.compare import compare
from reproducer.reporting.escape import Raw, environment, escape_markdown, escape_tex
from reproducer.reporting.generations import generations_section
from reproducer.reporting.searches import searches_section
from reproducer.reporting.summary import check
from reproducer.reporting.training import training_section


def render(results: Mapping[str, Any], directory: Path) -> list[Path]:
    """Write the report of a run into `directory` (made if missing), the paper's numbers attached as `paper`.

    The same results give the same files. LaTeX: `pdflatex report.tex` in `directory`.

    Returns:
        The files written: results.json, report.md, report.tex, then the figures.

    Raises:
        ValueError: a number is NaN or infinite, or an accuracy is not a fraction; the message names its place.
    """
    check(results)
    results = {**results, "paper": compare(results)}
    text = json.dumps(results, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    results = json.loads(text)  # what a later rendering from the file will see, keys in their order
    directory.mkdir(parents=True, exist_ok=True)
    drawn = figures.draw(results, directory / "figures")
    content = _content(results) | {"figures": drawn}
    formats: tuple[tuple[str, Callable[[Any], Raw], Callable], ...] = (
        ("report.md", escape_markdown, tables.markdown),
        ("report.tex", escape_tex, tables.tex),
    )
    written = [_write(directory / "results.json", text)]
    for name, escape, table in formats:
        template = environment(escape).get_template(f"{name}.j2")
        page = template.render(**content, table=table, longtable=tables.longtable, raw=Raw)
        written.append(_write(directory / name, page))
    endings = ("png", "pdf")
    return written + [directory / "figures" / f"{figure['name']}.{end}" for figure in drawn for end in endings]


def _content(results: Mapping[str, Any]) -> dict[str, Any]:
    spec = results["spec"]
    return {
        "title": spec.get("title") or spec["name"],
        "profiles": ", ".join(results.get("profile") or []),
        "headline": sections.headline(results),
        "results": sections.results_table(results),
        "budget": budget_section(results.get("budget")),
        "training": training_section(results["rows"]),
        "searches": searches_section(results.get("searches") or []),
        "generations": generations_section(results),
        "paper": checks.paper_section(results),
        "significance": chance.significance_section(results),
        "choices": sections.choices_table(results),
        "failures": sections.failures(results),
        "environment": sections.environment_table(results),
        "provenance": sections.provenance_table(results),
        "command": sections.command(results),
    }


def _write(path: Path, text: str) -> Path:
    """Whole or not at all: a report of an earlier run is never left half overwritten."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path
