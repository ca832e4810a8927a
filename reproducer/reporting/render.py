"""`Results` -> results.json, report.md with its appendix.md, report.html, report.tex, tables and figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reproducer.paper import costs, method
from reproducer.reporting import cost, figures, markdown, searches
from reproducer.reporting.article import Article, article, compact
from reproducer.reporting.escape import escape_markdown
from reproducer.reporting.html import html
from reproducer.reporting.latex import latex, tabular
from reproducer.reporting.rows import CONFIDENCE
from reproducer.reporting.tables import Table
from reproducer.reporting.terminal import terminal
from reproducer.reporting.verdicts import FEW
from reproducer.stages.results import Column, Results, Row


@dataclass(frozen=True)
class Texts:
    """An article in Markdown: the report and the appendix, without their titles, and the tables that have a name."""

    report: str
    appendix: str
    tables: dict[str, Table]


def render(results: Results, directory: Path) -> list[Path]:
    """Write the report of a run into `directory` (made if missing), the paper's numbers attached as `paper`.

    The same results give the same files, and so does what `Results.model_validate_json` reads back from results.json.
    LaTeX: `pdflatex report.tex` in `directory`; report.html needs no other file.

    Returns:
        The files written: results.json, report.md, appendix.md, report.html, report.tex, then tables and figures.
    """
    return write(article(results), directory)


def write(told: Article, directory: Path) -> list[Path]:
    """Write an article's files; see `render`."""
    pictures = figures.draw(told.results, directory / "figures", told.verdicts)
    told = replace(told, pictures=pictures)
    written = texts(told)
    title = escape_markdown(told.title)
    files = {
        "results.json": told.results.to_json(),
        "report.md": f"# {title}\n\n{written.report}\n## Appendix\n\n{markdown.render('appendix_link.j2')}",
        "appendix.md": f"# {title}: appendix\n\nOf [report.md](report.md).\n\n{written.appendix}",
        "report.html": html(told.title, written.report, written.appendix, directory),
        "report.tex": latex(told.title, written.report, written.appendix),
    }
    files |= {f"tables/{name}.tex": tabular(table.markdown()) for name, table in written.tables.items()}
    (directory / "tables").mkdir(parents=True, exist_ok=True)
    return [*(_write(directory / name, text) for name, text in files.items()), *(one.png for one in pictures)]


def texts(told: Article) -> Texts:
    """The article in Markdown."""
    tables: dict[str, Table] = {}
    content = _content(told)
    report = markdown.render("report.j2", tables, **content)
    return Texts(report, markdown.render("appendix.j2", tables, **content), tables)


def summary(results: Results) -> str:
    """What a terminal shows at the end of a run: the compact table and the verdicts."""
    return terminal_of(article(results))


def terminal_of(told: Article) -> str:
    return terminal(markdown.render("terminal.j2", **_content(told)))


def row_line(row: Row, columns: Sequence[Column]) -> str:
    """What a terminal shows of a row that has ended."""
    return " ".join(terminal(markdown.render("row.j2", row=row, columns=compact(columns))).split())


def _content(told: Article) -> dict[str, Any]:
    """What the templates of a report know: the article, and the numbers that its sentences quote."""
    return {
        "a": told,
        "results": told.results,
        "rows": told.rows,
        "head": ["Model"] * told.several + ["Ratio", "Tuning"],
        "CONFIDENCE": CONFIDENCE,
        "FEW": FEW,
        "NEAR": searches.NEAR,
        "FORWARD": searches.FORWARD,
        "PARAMETERS_7B": searches.PARAMETERS_7B,
        "SPEED": searches.SPEED,
        "paper_method": method(),
        "paper_costs": costs(),
        "seconds_7b": cost.seconds_7b,
        "seen": cost.seen_columns(told.results),
        "unseen": cost.unseen_columns(told.results),
        "mean_cell": cost.mean_cell,
        "objective_cell": cost.objective_cell,
        "sights": cost.sights,
        "uneven": cost.uneven,
    }


def _write(path: Path, text: str) -> Path:
    """As a whole or not at all: a report of an earlier run is never left half overwritten."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path
