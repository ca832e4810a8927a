"""`Results` -> results.json, report.md with its appendix.md, report.html, report.tex, tables and figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reproducer.reporting import figures, markdown
from reproducer.reporting.article import Article, article
from reproducer.reporting.escape import escape_markdown, one_line
from reproducer.reporting.html import html
from reproducer.reporting.latex import latex, tabular
from reproducer.reporting.measures import compact
from reproducer.reporting.numbers import row_name, with_interval
from reproducer.reporting.tables import Table
from reproducer.reporting.verdicts import OUTCOMES
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


def write(content: Article, directory: Path) -> list[Path]:
    """Write an article's files; see `render`."""
    pictures = figures.draw(content.results, directory / "figures")
    content = replace(content, pictures=pictures)
    written = texts(content)
    title = escape_markdown(content.title)
    files = {
        "results.json": content.results.to_json(),
        "report.md": f"# {title}\n\n{written.report}\n## Appendix\n\n{markdown.render('appendix_link.j2')}",
        "appendix.md": f"# {title}: appendix\n\nOf [report.md](report.md).\n\n{written.appendix}",
        "report.html": html(content.title, written.report, written.appendix, directory),
        "report.tex": latex(content.title, written.report, written.appendix),
    }
    files |= {f"tables/{name}.tex": tabular(table.markdown()) for name, table in written.tables.items()}
    (directory / "tables").mkdir(parents=True, exist_ok=True)
    return [*(_write(directory / name, text) for name, text in files.items()), *(one.png for one in pictures)]


def texts(content: Article) -> Texts:
    """The article in Markdown."""
    tables: dict[str, Table] = {}
    report = markdown.render("report.j2", tables, a=content)
    return Texts(report, markdown.render("appendix.j2", tables, a=content), tables)


def summary(results: Results) -> str:
    """What a terminal shows at the end of a run: the compact table, and how many of the paper's claims hold."""
    return summary_of(article(results))


def summary_of(content: Article) -> str:
    parts = [content.title, content.main.plain()]
    if len(content.seeds) > 1:
        parts.append("± is half a 95% interval over seeds; * is the best, ≈ what cannot be told from it.")
    if content.verdicts:
        counts = [(sum(one.outcome == outcome for one in content.verdicts), outcome) for outcome in OUTCOMES]
        parts.append(f"Claims of the paper: {', '.join(f'{count} {outcome}' for count, outcome in counts if count)}.")
    return "\n\n".join(parts)


def row_line(row: Row, columns: Sequence[Column]) -> str:
    """What a terminal shows of a row that has ended; why one failed stands at its stage."""
    shown: list[str] = [row.status] if row.status != "done" else []
    for column in compact(columns) if row.status == "done" else []:
        value = row.metrics.get(column.key)
        if value is not None:
            shown.append(f"{column.label} {with_interval(value, None, column)}")
    return one_line(f"{row_name(row)}: {', '.join(shown)}")


def _write(path: Path, text: str) -> Path:
    """As a whole or not at all: a report of an earlier run is never left half overwritten."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path
