"""`Results` -> results.json, report.md, report.html, report.tex, tables and figures."""

from __future__ import annotations

import base64
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import Context

from reproducer.paper import method, paper
from reproducer.reporting import comparison, cost, figures, majority, searches, significance
from reproducer.reporting.correlations import correlations
from reproducer.reporting.escape import (
    Raw,
    escape_html,
    escape_markdown,
    escape_plain,
    escape_tex,
    one_line,
    words_html,
    words_markdown,
    words_tex,
)
from reproducer.reporting.numbers import FILTERS, perplexity, plus_minus, signed, with_interval
from reproducer.reporting.rows import CONFIDENCE, CUT, Estimate, Line, blocks, by_seed, cells, estimate, lines
from reproducer.reporting.tables import Cell, Table, best, html, markdown, plain, tabular, tex
from reproducer.reporting.verdicts import Deviation, Verdict, deviations, verdicts
from reproducer.stages.results import Column, Order, PaperCell, PaperComparison, Results, Row, Search

TEMPLATES = Path(__file__).parent / "templates"
ENDS = 10  # steps at the beginning and at the end of a recovery that are averaged, or a third of all
FEW = 12  # verdicts that the first screen has room for
OUTCOMES = ("supported", "contradicted", "inconclusive", "not tested")


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
HTML = Format("report.html", "html.j2", escape_html, words_html, html)
LATEX = Format("report.tex", "latex.j2", escape_tex, words_tex, tex)
FORMATS = (MARKDOWN, HTML, LATEX)
TERMINAL = Format("", "plain.j2", escape_plain, str, plain)


@dataclass(frozen=True)
class Article:
    """What all formats tell.

    Attributes:
        results: with the paper's numbers attached.
        verdicts, deviations: of the paper's claims, and of the run from the paper.
        drawn: the figures.
    """

    results: Results
    verdicts: Sequence[Verdict]
    deviations: Sequence[Deviation]
    drawn: Sequence[figures.Picture] = ()


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
        The files written: results.json, report.md, report.html, report.tex, then tables and figures.
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
        written.append(_write(directory / form.file, made.text))
        tables |= made.tables
    (directory / "tables").mkdir(exist_ok=True)
    written += [_write(directory / "tables" / f"{name}.tex", _to_paste(table)) for name, table in tables.items()]
    endings = ("png", "pdf")
    return written + [directory / "figures" / f"{picture.name}.{end}" for picture in told.drawn for end in endings]


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
    found: dict[str, Table] = {}
    content = {
        "tables": found,
        "results": results,
        "compared": [run for run in (results, *map(results.of_part, results.parts)) if run.paper is not None],
        "rows": results.rows,
        "blocks": blocks(lines(results.rows)),
        "standings": comparison.standings(results),
        "tests": significance.paired_tests(results),
        "verdicts": told.verdicts,
        "deviations": told.deviations,
        "drawn": told.drawn,
        "key_figure": _key_figure(told),
        "majorities": majority.majorities(results),
        "tasks": tasks,
        "no_better": {one.model.name: {column.key for column in one.no_better} for one in tasks},
        "columns": columns,
        "compact": _compact(columns),
        "margins": margins,
        "labels": {column.key: column.label for column in [*columns, *margins]},
        "recovery_labels": {row.recovery: row.recovery_label for row in results.rows},
        "paper_method": method(),
    }
    text = environment(form).get_template(template).render(content)
    return Page("\n".join(_paragraphs(text)), found)


def _key_figure(told: Article) -> figures.Picture | None:
    """The one figure of the first screen: what the paper's item is about or, where it is none, the first there is."""
    item = comparison.item_of(told.results)
    kinds = ["perplexity", "accuracy", "histories", "cost", "search", "training"]
    if item is not None and item.trials_to_converge:
        kinds.insert(0, "histories")
    elif item is not None and item.columns and all(key.endswith("_acc") for key in item.columns):
        kinds.insert(0, "accuracy")
    if sum(one.ours is not None for one in told.verdicts) > 1:
        kinds.insert(0, "claims")
    return next((picture for kind in kinds for picture in told.drawn if picture.kind == kind), None)


def _compact(columns: Sequence[Column]) -> list[Column]:
    """The columns without the single tasks that an average stands for."""
    if not any(column.kind == "accuracy" and column.source is None for column in columns):
        return list(columns)
    return [column for column in columns if column.kind != "accuracy" or column.source is None]


def _write(path: Path, text: str) -> Path:
    """Whole or not at all: a report of an earlier run is never left half overwritten."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path


def _paragraphs(page: str) -> Iterable[str]:
    """The lines of a page without blank ones at its beginning or behind one another."""
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
    def finalize(context: Context, value: Any) -> Raw:
        if not isinstance(value, Table):
            return form.escape(value)
        if value.name:
            context["tables"][value.name] = value
        return form.table(value)

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
            cost.controls, cost.seen_columns, cost.unseen_columns, cost.sights, cost.uneven,
            correlations, searches.flop_7b, searches.histories, searches.against_random,
            median, _flat, _bold, _mark, _sorted_by, _command, _title, _slug, _data_uri, _contents, _outcomes, _few,
            _mean_cell, _objective_cell, _by_label, with_interval,
            _block_cells, _ends, _beginning, _lines_of, _prompts, _search_budgets,
            _best_candidates, _distinct_searches, _transfers, _by_cut, _difference, _tau, _paper_cell, _printed_columns,
        )
    }  # fmt: skip
    made.filters |= {"mean": fmean, "verbatim": Raw}
    made.globals |= {name: getattr(searches, name) for name in ("NEAR", "PARAMETERS_7B", "FORWARD", "FORWARD_BACKWARD")}
    made.globals |= {"SPEED": searches.SPEED, "LEVEL": significance.LEVEL, "ENDS": ENDS, "Table": Table}
    made.globals |= {"CONFIDENCE": CONFIDENCE}
    made.globals |= {
        name: macro for name, macro in vars(made.get_template(form.macros).module).items() if name[0] != "_"
    }
    return made


def _flat(text: str) -> str:
    return type(text)(" ".join(text.split()))


def _bold(text: str | None, really: bool) -> Cell:
    return Cell(text, bool(really))


def _mark(text: str | None, mark: str) -> Cell:
    return Cell(text, mark=mark.replace(" ", "-"))


def _sorted_by(text: str | None, value: float | None) -> Cell:
    return Cell(text, value=value)


def _title(results: Results) -> str:
    """The spec's title with the models that ran in the place of the paper's."""
    title = str(results.spec.get("title") or results.spec["name"])
    for model in results.models:
        if model.stands_for:
            label = model.label.replace("\\", r"\\")  # as it is
            title = re.sub(re.escape(model.stands_for), label, title, flags=re.IGNORECASE)
    missing = [model.label for model in results.models if model.label.lower() not in title.lower()]
    return f"{title} ({', '.join(dict.fromkeys(missing))})" if missing else title


def _slug(text: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", one_line(text).lower()).replace(" ", "-")


def _data_uri(png: Path) -> Raw:
    return Raw("data:image/png;base64," + base64.b64encode(png.read_bytes()).decode("ascii"))


def _outcomes(found: Sequence[Verdict]) -> list[tuple[str, list[tuple[int, Verdict]]]]:
    """The verdicts by outcome, each with its number in the paper's order, from 1."""
    numbered = [*enumerate(found, start=1)]
    groups = [(outcome, [one for one in numbered if one[1].outcome == outcome]) for outcome in OUTCOMES]
    return [(outcome, members) for outcome, members in groups if members]


def _few(found: Sequence[Verdict]) -> list[Verdict]:
    """Those of the first screen: all or, where they are many, the abstract's and those that are decided."""
    first = [one for one in found if one.headline or one.outcome in ("supported", "contradicted")]
    return list(found) if len(found) <= FEW or not first else first


def _contents(body: str) -> list[tuple[Raw, Raw]]:
    """The sections of a page of HTML: anchors and headings."""
    return [(Raw(anchor), Raw(name)) for anchor, name in re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', body)]


def _by_label(found: Sequence[Row]) -> list[list[Row]]:
    """Rows that differ in the seed alone, together."""
    return [line["rows"] for line in lines(found)]


def _mean_cell(line: Line, columns: Sequence[Column]) -> Cell:
    return _estimated(cost.mean_of(line, columns))


def _objective_cell(line: Line) -> Cell:
    return _estimated(estimate([*by_seed(line, ["search_objective"]).values()]))


def _estimated(found: Estimate | None) -> Cell:
    return Cell(None) if found is None else Cell(plus_minus(found.mean, found.half), value=found.mean)


def _command(results: Results) -> str:
    """The command that runs this again: its own, if it is known, else the spec's name and profiles."""
    options = [part for name in results.profile for part in ("--profile", name)]
    command = results.command or ["reproduce", f"specs/{results.spec['name']}.yaml", *options]
    return one_line(shlex.join(command))


def _block_cells(
    block: Sequence[Line], columns: Sequence[Column], no_better: Mapping[str, Any] | None = None
) -> list[list[Cell]]:
    """The cells of each line of a block: its metrics.

    Args:
        no_better: by model, the keys of the columns in which its dense row gets an asterisk.
    """
    of_columns = [cells(block, column.key, column) for column in columns]
    found = [[of_column[index] for of_column in of_columns] for index in range(len(block))]
    for line, of_line in zip(block, found, strict=True):
        marked = (no_better or {}).get(line["model"], ()) if line["method"] == "dense" else ()
        for place, column in enumerate(columns):
            if column.key in marked:
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


def _difference(test: significance.PairedTest) -> str | None:
    """The mean difference of a test of margins and half the width of its interval; None of a single item."""
    return None if test.difference is None else plus_minus(test.difference, test.half, signs=True)


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
