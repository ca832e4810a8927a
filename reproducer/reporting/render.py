"""`Results` -> results.json, report.md, report.tex and figures."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream

from reproducer.paper import method
from reproducer.reporting import comparison, cost, figures, majority, searches, significance
from reproducer.reporting.escape import Raw, escape_markdown, escape_tex, one_line, words_markdown, words_tex
from reproducer.reporting.numbers import FILTERS, form_of, perplexity, signed
from reproducer.reporting.rows import CUT, Line, blocks, cells, lines
from reproducer.reporting.tables import Cell, Table, best, markdown, tex
from reproducer.stages.results import Column, Order, PaperCell, PaperComparison, Results, Row, Search

TEMPLATES = Path(__file__).parent / "templates"
ENDS = 10  # steps at the beginning and at the end of a recovery that are averaged, or a third of all


@dataclass(frozen=True)
class Format:
    """What a format of the report is made with: `macros` is the template that holds its headings, lists, ….

    `escape` makes a value text on one line; `words` escapes the words of the shared templates.
    """

    file: str
    macros: str
    escape: Callable[[Any], Raw]
    words: Callable[[str], str]
    table: Callable[[Table], Raw]


MARKDOWN = Format("report.md", "markdown.j2", escape_markdown, words_markdown, markdown)
LATEX = Format("report.tex", "latex.j2", escape_tex, words_tex, tex)
FORMATS = (MARKDOWN, LATEX)


def render(results: Results, directory: Path) -> list[Path]:
    """Write the report of a run into `directory` (made if missing), the paper's numbers attached as `paper`.

    The same results give the same files, and so does what `Results.model_validate_json` reads back from results.json.
    LaTeX: `pdflatex report.tex` in `directory`.

    Returns:
        The files written: results.json, report.md, report.tex, then the figures.
    """
    results = results.model_copy(update={"paper": comparison.compare(results)})
    directory.mkdir(parents=True, exist_ok=True)
    drawn = figures.draw(results, directory / "figures")
    written = [_write(directory / "results.json", results.to_json())]
    written += [_write(directory / form.file, page(results, form, drawn)) for form in FORMATS]
    endings = ("png", "pdf")
    return written + [directory / "figures" / f"{picture.name}.{end}" for picture in drawn for end in endings]


def page(results: Results, form: Format, drawn: Sequence[figures.Picture] = ()) -> str:
    """The report in one format, with the figures that were `drawn`; `results` has `paper` attached."""
    columns = [column for column in results.columns if not column.is_margin]
    named = {column.source: column.label for column in columns}
    # margins stand in tables of margins alone, under their tasks' names
    margins = [
        column.model_copy(update={"label": named.get(column.source, column.label)})
        for column in results.columns
        if column.is_margin
    ]
    tasks = majority.tasks_by_model(results)
    content = {
        "results": results,
        "rows": results.rows,
        "blocks": blocks(lines(results.rows)),
        "standings": comparison.standings(results),
        "tests": significance.paired_tests(results),
        "drawn": drawn,
        "majorities": majority.majorities(results),
        "tasks": tasks,
        "no_better": {one.model.name: {column.key for column in one.no_better} for one in tasks},
        "columns": columns,
        "margins": margins,
        "labels": {column.key: column.label for column in [*columns, *margins]},
        "recovery_labels": {row.recovery: row.recovery_label for row in results.rows},
        "paper_method": method(),
    }
    text = environment(form).get_template("report.j2").render(content)
    return squeezed(text)


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


@cache
def environment(form: Format) -> Environment:
    """Templates that escape whatever they print; blocks are `<% %>`, values `<< >>` in every format.

    A macro's result is `Raw`. The words of a template are escaped as well, but for those of the format's own macros.
    """

    class Words(Extension):
        def filter_stream(self, stream: TokenStream) -> Iterable[Token]:
            for token in stream:
                if token.type == "data" and stream.name != form.macros:
                    token = Token(token.lineno, "data", form.words(token.value))
                yield token

    @pass_context  # so that constants, too, are escaped when they are printed
    def finalize(_: Any, value: Any) -> Raw:
        return form.table(value) if isinstance(value, Table) else form.escape(value)

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        extensions=["jinja2.ext.do", Words],
        finalize=finalize,
        undefined=StrictUndefined,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.concat = lambda parts: Raw("".join(parts))  # type: ignore[method-assign]
    made.filters |= FILTERS
    made.filters |= {
        function.__name__.removeprefix("_"): function
        for function in (
            searches.rival, searches.searches_metric, searches.gap, searches.states,
            searches.settled, searches.candidates, searches.importances,
            cost.controls, cost.seen_columns, cost.unseen_columns, cost.mean_of, cost.sights, cost.uneven,
            searches.flop_7b, searches.histories, searches.against_random,
            median, _flat, _bold, _command, _block_cells, _ends, _beginning, _lines_of, _prompts, _search_budgets,
            _best_candidates, _distinct_searches, _transfers, _by_cut, _difference, _tau, _paper_cell, _printed_columns,
        )
    }  # fmt: skip
    made.filters |= {"mean": fmean, "verbatim": Raw}
    made.globals |= {name: getattr(searches, name) for name in ("NEAR", "PARAMETERS_7B", "FORWARD", "FORWARD_BACKWARD")}
    made.globals |= {"SPEED": searches.SPEED, "LEVEL": significance.LEVEL, "ENDS": ENDS, "Table": Table}
    made.globals |= {
        name: macro for name, macro in vars(made.get_template(form.macros).module).items() if name[0] != "_"
    }
    return made


def _flat(text: str) -> str:
    return type(text)(" ".join(text.split()))


def _bold(text: str | None, really: bool) -> Cell:
    return Cell(text, bool(really))


def _command(results: Results) -> str:
    """The command that runs this again: its own, if it is known, else the spec's name and profiles."""
    options = [part for name in results.profile for part in ("--profile", name)]
    command = results.command or ["reproduce", f"specs/{results.spec['name']}.yaml", *options]
    return one_line(shlex.join(command))


def _block_cells(
    block: Sequence[Line], columns: Sequence[Column], searched: bool = False, no_better: Mapping[str, Any] | None = None
) -> list[list[Cell]]:
    """The cells of each line of a block: its metrics and, if `searched`, its search objective.

    Args:
        no_better: by model, the keys of the columns in which its dense row gets an asterisk.
    """
    shown = [(column.key, column) for column in columns]
    if searched:
        objective = Column(key="search_objective", label="", kind="perplexity", higher_is_better=False)
        shown.append((objective.key, objective))
    columns_of_cells = [cells(block, key, column) for key, column in shown]
    found = [[of_column[index] for of_column in columns_of_cells] for index in range(len(block))]
    for line, of_line in zip(block, found, strict=True):
        marked = (no_better or {}).get(line["model"], ()) if line["method"] == "dense" else ()
        for place, (key, _) in enumerate(shown):
            if key in marked:
                of_line[place] = replace(of_line[place], text=f"{of_line[place].text}*")
    return found


def _ends(steps: int) -> int:
    """How many steps at either end are averaged: never so many that the two ends meet, but for a single step."""
    return max(1, min(ENDS, steps // 3))


def _beginning(text: str, limit: int = 110) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " …"


def _lines_of(text: str) -> list[str]:
    """The lines of a text; blank ones once, none at the ends."""
    found: list[str] = []
    for line in text.strip().splitlines():
        if line.strip() or (found and found[-1]):
            found.append(line.strip())
    return found


def _prompts(rows: Sequence[Row]) -> dict[str, list[tuple[Row, str]]]:
    found: dict[str, list[tuple[Row, str]]] = {}
    for row in rows:
        for generation in row.generations:
            found.setdefault(generation.prompt, []).append((row, generation.text))
    return found


def _search_budgets(found: Sequence[Search]) -> list[tuple[tuple[Any, ...], int]]:
    """(trials, windows of a text, texts) and how many searches have them."""
    budgets = [(len(search.trials), search.settings.get("windows"), len(search.texts)) for search in found]
    return [(budget, budgets.count(budget)) for budget in dict.fromkeys(budgets)]


def _best_candidates(found: Sequence[searches.Candidate]) -> set[int]:
    return best([None if c.value is None else (c.value, perplexity(c.value)) for c in found], False)


def _distinct_searches(found: Sequence[Search]) -> list[Search]:
    """The first of those that differ in model, cut and seed alone."""
    first: dict[Any, Search] = {}
    for search in found:
        first.setdefault(search.label, search)
    return list(first.values())


def _transfers(spec: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The methods of a spec that use what was searched elsewhere, and where that was."""
    given = (spec.get("search") or {}).get("transfer")
    found = []
    for entry in spec.get("methods") or []:
        own = (entry.get("search") or {}).get("transfer", given)
        if own:
            found.append((entry.get("label") or entry["name"], own))
    return found


def _by_cut(found: Sequence[Any]) -> list[list[Any]]:
    """Things with a model, a cut and a recovery together that share them, in the order of their first."""
    groups: dict[Any, list[Any]] = {}
    for one in found:
        groups.setdefault(tuple(getattr(one, name) for name in CUT), []).append(one)
    return list(groups.values())


def _difference(test: significance.PairedTest, margins: Sequence[Column]) -> str | None:
    """The mean difference of a test of margins and half the width of its interval; None of a single item."""
    if test.difference is None or test.half is None:
        return None
    form = form_of(next(column for column in margins if column.key == test.measure))
    return f"{'+' if test.difference > 0 else ''}{form(test.difference)} ± {form(test.half)}"


def _tau(block: Sequence[Order], key: str) -> str | None:
    return next((f"{order.tau:.2f}".replace("-", "−") for order in block if order.metric == key), None)


def _printed_columns(columns: Sequence[Column], paper: PaperComparison) -> list[Column]:
    """The columns of which the paper prints something in these rows."""
    return [
        column
        for column in columns
        if any(column.key in row.cells and row.cells[column.key].paper is not None for row in paper.rows)
    ]


def _paper_cell(cell: PaperCell, kind: str, side: str, relative: bool) -> str | None:
    """A cell of the comparison: a value, or relative to the dense row's; `side`: paper, ours or difference."""
    if side == "difference":
        return (
            signed(cell.difference_from_dense if kind == "accuracy" else None, kind)
            if relative
            else signed(cell.difference, kind)
        )
    value = getattr(cell, side)
    if not relative:
        return None if value is None else signed(value, kind).lstrip("+")
    if kind == "accuracy":
        return signed(getattr(cell, f"{side}_from_dense"), kind)
    factor = getattr(cell, f"{side}_over_dense")
    return None if factor is None else f"×{perplexity(factor)}"
