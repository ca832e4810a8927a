"""`Results` -> results.json, report.md with its appendix.md, report.html, report.tex, tables and figures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reproducer.paper import method, paper
from reproducer.reporting import comparison, figures, gguf, majority, speed
from reproducer.reporting.controls import beside, control_rows
from reproducer.reporting.deviations import Deviation, deviations
from reproducer.reporting.formats import FORMATS, TERMINAL, Format, environment
from reproducer.reporting.rows import blocks, lines, with_results
from reproducer.reporting.tables import Table, tabular
from reproducer.reporting.transfers import transfers
from reproducer.reporting.verdicts import Verdict, verdicts
from reproducer.stages.results import Column, Results, Row

APPENDIX = "\n## Appendix\n"
CONTENT = "every search, training losses, generated text, settings and provenance"


@dataclass(frozen=True)
class Article:
    """What all formats tell.

    Attributes:
        results: with the paper's numbers attached.
        verdicts, deviations: of the paper's claims, and of the run from the paper.
        drawn: the figures.
        content: what templates are rendered with.
    """

    results: Results
    verdicts: Sequence[Verdict]
    deviations: Sequence[Deviation]
    drawn: Sequence[figures.Picture] = ()

    @cached_property
    def content(self) -> dict[str, Any]:
        return _content(self)


@dataclass(frozen=True)
class Page:
    """A report in one format. `tables`: those that have a name, in their order."""

    text: str
    tables: dict[str, Table] = field(default_factory=dict)


def article(results: Results) -> Article:
    """What there is to tell of a run, the figures not drawn yet."""
    parts = [part.model_copy(update={"paper": comparison.compare(results.of_part(part))}) for part in results.parts]
    results = results.model_copy(update={"paper": comparison.compare(results), "parts": parts})
    return Article(results, verdicts(results, paper()), deviations(results, paper()))


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
    directory.mkdir(parents=True, exist_ok=True)
    told = replace(told, drawn=figures.draw(told.results, directory / "figures", told.verdicts))
    written = [_write(directory / "results.json", told.results.to_json())]
    tables: dict[str, Table] = {}
    for form in FORMATS:
        made = page(told, form)
        texts = {form.file: made.text} if form.appendix is None else _in_two(made.text, form.file, form.appendix)
        written += [_write(directory / name, text) for name, text in texts.items()]
        tables |= made.tables
    (directory / "tables").mkdir(exist_ok=True)
    written += [_write(directory / "tables" / f"{name}.tex", _to_paste(table)) for name, table in tables.items()]
    return written + [picture.png for picture in told.drawn]


def _in_two(text: str, report: str, appendix: str) -> dict[str, str]:
    """A report in Markdown and its appendix, which is longer and seldom read, as two files that link to each other."""
    title = text.partition("\n")[0]
    body, mark, rest = text.partition(APPENDIX)
    rest = re.sub(r"(?m)^#(#+ )", r"\1", rest)  # its sections are the file's
    return {
        report: f"{body}{mark}\n[{appendix}]({appendix}) has {CONTENT}.\n",
        appendix: f"{title}: appendix\n\nOf [{report}]({report}).\n{rest}",
    }


def _to_paste(table: Table) -> str:
    needed = "booktabs, array" if "p" in table.align else "booktabs"
    return f"% \\usepackage{{{needed}}}\n{tabular(table)}"


def summary(results: Results) -> str:
    """What a terminal shows at the end of a run: the compact table and the verdicts."""
    return page(article(results), TERMINAL, "terminal.j2").text.rstrip("\n")


def row_line(row: Row, columns: Sequence[Column]) -> str:
    """What a terminal shows of a row that has ended."""
    shown = _compact([column for column in columns if not column.is_margin])
    text = environment(TERMINAL).get_template("row.j2").render(row=row, columns=shown)
    return " ".join(text.split())


def page(told: Article, form: Format, template: str = "report.j2") -> Page:
    """The article in one format."""
    found: dict[str, Table] = {}
    text = environment(form).get_template(template).render(told.content, tables=found)
    return Page(squeezed(text), found)


def _content(told: Article) -> dict[str, Any]:
    """The same for every format; `tables` is each one's own."""
    results = told.results
    columns = [column for column in results.columns if not column.is_margin]
    named = {column.source: column.label for column in columns}
    # margins stand in tables of margins alone, under their tasks' names
    margins = [
        column.model_copy(update={"label": named.get(column.source, column.label)})
        for column in results.columns
        if column.is_margin
    ]
    tasks = majority.tasks_by_model(results)
    every = lines(results.rows)
    whole = blocks(with_results(every))
    first = results.of_part(results.parts[0]) if results.parts else None
    return {
        "results": results,
        "compared": [run for run in (results, *map(results.of_part, results.parts)) if run.paper is not None],
        "rows": results.rows,
        "blocks": whole,
        "main": blocks(with_results(lines(first.rows))) if first else whole,
        "control_blocks": blocks(with_results(lines(control_rows(results)))),
        "beside": beside(results),
        "left_out": len(every) - sum(map(len, whole)),
        "standings": comparison.standings(results),
        "verdicts": told.verdicts,
        "deviations": told.deviations,
        "carried_over": transfers(results),
        "drawn": told.drawn,
        "key_figure": _key_figure(told),
        "timed": speed.times(results),
        "deployed": gguf.files(results),
        "majorities": majority.majorities(results),
        "tasks": tasks,
        "no_better": {one.model.name: {column.key for column in one.no_better} for one in tasks},
        "columns": columns,
        "compact": _compact([column for column in first.columns if not column.is_margin] if first else columns),
        "margins": margins,
        "labels": {column.key: column.label for column in [*columns, *margins]},
        "recovery_labels": {row.recovery: row.recovery_label for row in results.rows},
        "paper_method": method(),
        "paper_models": paper().conditions.models,
    }


def _key_figure(told: Article) -> figures.Picture | None:
    """The one figure of the first screen: what the paper's item is about or, where it is none, the first there is."""
    item = comparison.item_of(told.results)
    kinds = ["perplexity", "accuracy", "histories", "cost", "training"]
    if item is not None and item.trials_to_converge:
        kinds.insert(0, "histories")
    elif item is not None and item.columns and all(key.endswith("_acc") for key in item.columns):
        kinds.insert(0, "accuracy")
    if sum(one.ours is not None for one in told.verdicts) > 1:
        kinds.insert(0, "claims")
    return next((picture for kind in kinds for picture in told.drawn if picture.kind == kind), None)


def _compact(columns: Sequence[Column]) -> list[Column]:
    """The columns of quality, without the single tasks that an average stands for; else all."""
    averages = [column for column in columns if column.kind == "accuracy" and column.source is None]
    accuracies = averages or [column for column in columns if column.kind == "accuracy"]
    return [column for column in columns if column.kind == "perplexity" or column in accuracies] or list(columns)


def _write(path: Path, text: str) -> Path:
    """Whole or not at all: a report of an earlier run is never left half overwritten."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path


def squeezed(page: str) -> str:
    """A page without blank lines at its beginning or behind one another."""
    return "\n".join(_paragraphs(page))


def _paragraphs(page: str) -> Iterable[str]:
    blank = True
    for line in page.splitlines():
        if line.strip() or not blank:
            yield line.rstrip()
        blank = not line.strip()
    yield ""
