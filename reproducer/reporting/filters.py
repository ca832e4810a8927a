"""What templates ask of results beside what other modules tell: cells, groups, words. Each function is a filter."""

from __future__ import annotations

import base64
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reproducer.reporting import cost, searches
from reproducer.reporting.escape import Raw, one_line
from reproducer.reporting.numbers import perplexity, plus_minus, signed
from reproducer.reporting.rows import CUT, Estimate, Line, by_seed, cells, estimate, grouped, lines
from reproducer.reporting.tables import Cell, best
from reproducer.reporting.verdicts import Verdict
from reproducer.stages.compared import Order, PaperCell, PaperComparison
from reproducer.stages.results import Column, Results, Row, Search

FEW = 12  # verdicts that the first screen has room for
WIDTH = 100  # characters of a line on a terminal
OUTCOMES = ("supported", "contradicted", "inconclusive", "not tested")


def flat(text: str) -> str:
    return type(text)(" ".join(text.split()))


def filled(text: str) -> str:
    """A paragraph in lines for a terminal."""
    return type(text)(textwrap.fill(text, WIDTH))


def bold(text: str | None, really: bool) -> Cell:
    return Cell(text, bool(really))


def mark(text: str | None, mark: str) -> Cell:
    return Cell(text, mark=mark.replace(" ", "-"))


def sorted_by(text: str | None, value: float | None) -> Cell:
    return Cell(text, value=value)


def title(results: Results) -> str:
    """The spec's title with the models that ran in the place of the paper's."""
    title = str(results.spec.get("title") or results.spec["name"])
    for model in results.models:
        if model.stands_for:
            label = model.label.replace("\\", r"\\")  # as it is
            title = re.sub(re.escape(model.stands_for), label, title, flags=re.IGNORECASE)
    missing = list(dict.fromkeys(one.label for one in results.models if one.label.lower() not in title.lower()))
    if len(missing) > 2:
        missing[1:] = [f"{len(missing) - 1} others"]
    return f"{title} ({'; '.join(missing)})" if missing else title


def slug(text: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", one_line(text).lower()).replace(" ", "-")


def data_uri(png: Path) -> Raw:
    return Raw("data:image/png;base64," + base64.b64encode(png.read_bytes()).decode("ascii"))


def outcomes(found: Sequence[Verdict]) -> list[tuple[str, list[tuple[int, Verdict]]]]:
    """The verdicts by outcome, each with its number in the paper's order, from 1."""
    numbered = [*enumerate(found, start=1)]
    groups = [(outcome, [one for one in numbered if one[1].outcome == outcome]) for outcome in OUTCOMES]
    return [(outcome, members) for outcome, members in groups if members]


def first_screen(found: Sequence[Verdict]) -> list[tuple[str, list[tuple[int, Verdict]]]]:
    """The verdicts that the first screen has room for, with their numbers: the abstract's, then others by outcome.

    All others or, where they are many, those that are decided.
    """
    numbered = [*enumerate(found, start=1)]
    abstract = [one for one in numbered if one[1].headline]
    decided = ("supported", "contradicted") if len(found) > FEW else OUTCOMES
    others = [(of, [one for one in numbered if one[1].outcome == of and one not in abstract]) for of in decided]
    groups = [("abstract", abstract), *others]
    return [(name, members) for name, members in groups if members] or outcomes(found)


def contents(body: str) -> list[tuple[Raw, Raw]]:
    """The sections of a page of HTML: anchors and headings."""
    return [(Raw(anchor), Raw(name)) for anchor, name in re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', body)]


def by_label(found: Sequence[Row]) -> list[list[Row]]:
    """Rows that differ in the seed alone, together."""
    return [line["rows"] for line in lines(found)]


def in_part(rows: Sequence[Row]) -> list[Row]:
    """The rows of which something was measured, and something has not run yet."""
    return [row for row in rows if row.status == "missing" and row.has_metrics]


def lacking(rows: Sequence[Row]) -> list[str]:
    """The metrics but margins that one of the rows lacks."""
    keys = dict.fromkeys(key for row in rows for key, value in row.metrics.items() if value is None)
    return [key for key in keys if not key.endswith("_margin")]


def measured_cells(cells: Mapping[str, PaperCell]) -> bool:
    return any(cell.ours is not None for cell in cells.values())


def mean_cell(line: Line, columns: Sequence[Column]) -> Cell:
    return _estimated(cost.mean_of(line, columns))


def objective_cell(line: Line) -> Cell:
    return _estimated(estimate([*by_seed(line, ["search_objective"]).values()]))


def _estimated(found: Estimate | None) -> Cell:
    return Cell(None) if found is None else Cell(plus_minus(found.mean, found.half), value=found.mean)


def command(results: Results) -> str:
    """The command that runs this again: its own, if it is known, else the spec's name and profiles."""
    options = [part for name in results.profile for part in ("--profile", name)]
    command = results.command or ["reproduce", f"specs/{results.spec['name']}.yaml", *options]
    return one_line(shlex.join(command))


def block_cells(
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


def beginning(text: str, limit: int = 110) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " …"


def lines_of(text: str) -> list[str]:
    """The lines of a text; blank ones once, none at the ends."""
    found: list[str] = []
    for line in text.strip().splitlines():
        if line.strip() or (found and found[-1]):
            found.append(line.strip())
    return found


def prompts(rows: Sequence[Row]) -> dict[str, list[tuple[Row, str]]]:
    found: dict[str, list[tuple[Row, str]]] = {}
    for row in rows:
        for generation in row.generations:
            found.setdefault(generation.prompt, []).append((row, generation.text))
    return found


def search_budgets(found: Sequence[Search]) -> list[tuple[tuple[Any, ...], int]]:
    """(trials, windows of a text, texts) and how many searches have them."""
    budgets = [(searches.counted(search), search.settings.get("windows"), len(search.texts)) for search in found]
    return [(budget, budgets.count(budget)) for budget in dict.fromkeys(budgets)]


def best_candidates(found: Sequence[searches.Candidate]) -> set[int]:
    return best([None if c.value is None else (c.value, perplexity(c.value)) for c in found], False)


def distinct_searches(found: Sequence[Search]) -> list[Search]:
    """The first of those that differ in model, cut and seed alone."""
    return [group[0] for group in grouped(found, lambda search: search.label)]


def by_cut(found: Sequence[Any]) -> list[list[Any]]:
    """Things with a model, a cut and a recovery together that share them, in the order of their first."""
    return grouped(found, lambda one: tuple(getattr(one, name) for name in CUT))


def tau(block: Sequence[Order], key: str) -> str | None:
    return next((f"{order.tau:.2f}".replace("-", "−") for order in block if order.metric == key), None)


def printed_columns(columns: Sequence[Column], paper: PaperComparison) -> list[Column]:
    """The columns of which the paper prints something in these rows."""
    return [
        column
        for column in columns
        if any(column.key in row.cells and row.cells[column.key].paper is not None for row in paper.rows)
    ]


def paper_cell(cell: PaperCell, kind: str, side: str, relative: bool) -> str | None:
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


FILTERS = {
    function.__name__: function
    for function in (
        flat,
        bold,
        mark,
        sorted_by,
        title,
        slug,
        data_uri,
        outcomes,
        first_screen,
        contents,
        by_label,
        in_part,
        lacking,
        measured_cells,
        mean_cell,
        objective_cell,
        command,
        block_cells,
        beginning,
        lines_of,
        prompts,
        search_budgets,
        best_candidates,
        distinct_searches,
        by_cut,
        tau,
        printed_columns,
        paper_cell,
        filled,
    )
}
