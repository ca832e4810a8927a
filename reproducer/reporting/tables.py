"""Tables without a format: cells know their text and whether they are bold; a format is made of them last."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from reproducer.reporting.escape import Raw, escape_html, escape_markdown, escape_tex, one_line

LINE = 46  # characters of a paragraph's line in a terminal
FOLDED = 30  # rows, of which more are folded in HTML until a reader opens them
LETTER, GAP = 0.0096, 0.032  # of a line of LaTeX: what a small letter takes, and what parts columns


@dataclass(frozen=True)
class Cell:
    """`text` as it will read, unescaped; None reads as a dash.

    Attributes:
        value: what an HTML table is sorted by, where the text does not begin with it.
        mark: a class of HTML, such as a verdict's outcome, that its style sheet colours.
    """

    text: str | None
    bold: bool = False
    value: float | None = None
    mark: str | None = None


class Table:
    """What a template fills row by row.

    Attributes:
        name: of its own file, tables/`name`.tex; None for a table that has none.
        align: one of l, r, p (a paragraph) a column; the last one given holds for the rest.
        repeated: so many columns at the left read blank where they repeat the row above.
        long: in LaTeX it goes on over pages.
        rows: whole; `same` counts, for each, the cells at the left that read blank.
    """

    def __init__(
        self, headers: Sequence[str], align: str, repeated: int = 0, long: bool = False, name: str | None = None
    ) -> None:
        self.headers = list(headers)
        self.align = align[: len(headers)].ljust(len(headers), align[-1])
        self.repeated, self.long, self.name = repeated, long or "p" in self.align, name
        self.rows: list[list[Cell]] = []
        self.same: list[int] = []
        self.rules: set[int] = set()  # a rule is drawn above these rows

    def add(self, cells: Sequence[Any]) -> None:
        row = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        if len(row) != len(self.headers):
            raise ValueError(f"{len(row)} cells for {len(self.headers)} columns")
        fresh = not self.rows or len(self.rows) in self.rules
        same = 0 if fresh else self.repeated
        self.same.append(next((i for i in range(same) if row[i] != self.rows[-1][i]), same))
        self.rows.append(row)

    def rule(self) -> None:
        """Draw a rule above the next row."""
        if self.rows:
            self.rules.add(len(self.rows))

    def texts(self, escape: Callable[[Any], str], bold: str = "{}") -> list[list[str]]:
        """The cells as they read in a format, blank where they repeat the row above."""
        return [
            [_text(cell, escape, bold) if i >= same else "" for i, cell in enumerate(row)]
            for row, same in zip(self.rows, self.same, strict=True)
        ]


def best(shown: Sequence[tuple[float, str] | None], higher_is_better: bool) -> set[int]:
    """Which of the cells, each (value, text as displayed) or None, are best.

    Cells that read the same as the best are equally good: what is compared is what the reader sees. Where only one
    cell has a value there is nothing to be best of.
    """
    there = [(cell, i) for i, cell in enumerate(shown) if cell is not None]
    if len(there) < 2:
        return set()
    pick = max if higher_is_better else min
    text = pick((cell for cell, _ in there), key=lambda cell: cell[0])[1]
    return {i for cell, i in there if cell[1] == text}


def markdown(table: Table) -> Raw:
    """A table in GitHub's Markdown; rules have no place there. Columns are even but for paragraphs."""
    rows = [[str(escape_markdown(header)) for header in table.headers], *table.texts(escape_markdown, "**{}**")]
    widths = [3 if side == "p" else max(3, *map(len, column)) for side, *column in zip(table.align, *rows, strict=True)]
    sides = [*zip(table.align, widths, strict=True)]
    rules = ["-" * (n + 1) + ":" if side == "r" else ":" + "-" * (n + 1) for side, n in sides]
    even = [
        [text.rjust(n) if side == "r" else text.ljust(n) for text, (side, n) in zip(row, sides, strict=True)]
        for row in rows
    ]
    head, *body = (f"| {' | '.join(row)} |\n" for row in even)
    return Raw("".join([head, f"|{'|'.join(rules)}|\n", *body]))


def plain(table: Table) -> Raw:
    """A table for a terminal: paragraphs are broken into lines, rules are left out, a star stands for bold."""
    sides = {"l": "left", "p": "left", "r": "right"}
    return Raw(
        tabulate(
            table.texts(one_line, "{} *"),
            headers=[one_line(header) for header in table.headers],
            tablefmt="simple",
            colalign=[sides[side] for side in table.align] if table.rows else None,
            maxcolwidths=[LINE if side == "p" else None for side in table.align] if table.rows else None,
            disable_numparse=True,
        )
        + "\n"
    )


def html(table: Table) -> Raw:
    """A table of HTML, a `tbody` a block, folded if it is long; its page's script sorts it by a click on a heading.

    Cells that repeat the row above are whole: their page shows them once the table is sorted.
    """
    kinds = [f' class="{side}"' if side != "l" else "" for side in table.align]
    head = "".join(
        f'<th scope="col"{kind}><button type="button">{escape_html(header)}</button></th>'
        for header, kind in zip(table.headers, kinds, strict=True)
    )
    body = []
    for i, (row, same) in enumerate(zip(table.rows, table.same, strict=True)):
        if i in table.rules:
            body.append("</tbody>\n<tbody>\n")
        cells = "".join(
            _html_cell(cell, side, place < same)
            for place, (cell, side) in enumerate(zip(row, table.align, strict=True))
        )
        body.append(f"<tr>{cells}</tr>\n")
    whole = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(body)}</tbody>"
    made = f'<div class="table"><table>\n{whole}\n</table></div>\n'
    if len(table.rows) > FOLDED:
        made = f"<details>\n<summary>A table of {len(table.rows)} rows</summary>\n{made}</details>\n"
    return Raw(made)


def _html_cell(cell: Cell, side: str, same: bool) -> str:
    classes = [*([side] if side != "l" else []), *(["same"] if same else []), *([cell.mark] if cell.mark else [])]
    named = f' class="{escape_html(" ".join(classes))}"' if classes else ""
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    return f"<td{named}{value}>{_text(cell, escape_html, '<strong>{}</strong>')}</td>"


def tex(table: Table) -> Raw:
    """A table in a document of LaTeX, shrunk to the page where it is too large; or a `longtable`."""
    if table.long:
        columns, head, body = _tex_parts(table)
        return Raw(
            f"{{\\small\n\\begin{{longtable}}{{{columns}}}\n{head}\\endhead\n\\bottomrule\n\\endfoot\n{body}"
            "\\end{longtable}\n}\n"
        )
    return Raw(f"\\begin{{fitted}}\n{tabular(table)}\\end{{fitted}}\n")


def tabular(table: Table) -> str:
    """A booktabs `tabular` of LaTeX, to paste into a document; one with paragraphs needs `array` too."""
    columns, head, body = _tex_parts(table)
    return f"\\begin{{tabular}}{{{columns}}}\n{head}{body}\\bottomrule\n\\end{{tabular}}\n"


def _tex_parts(table: Table) -> tuple[str, str, str]:
    """The columns, the head between its rules, and the rows."""
    whole = [table.headers, *([cell.text for cell in row] for row in table.rows)]
    longest = [max(map(len, map(one_line, column))) for column in zip(*whole, strict=True)]
    others = sum(GAP + LETTER * n for n, side in zip(longest, table.align, strict=True) if side != "p")
    paragraphs = max(table.align.count("p"), 1)
    share = max((1 - others) / paragraphs - GAP, 0.1)  # of the line, roughly
    paragraph = f">{{\\raggedright\\arraybackslash}}p{{{share:.2f}\\linewidth}}"
    columns = "".join(paragraph if side == "p" else side for side in table.align)
    head = f"\\toprule\n{_tex_row([escape_tex(header) for header in table.headers])}\\midrule\n"
    rows = [_tex_row(row) for row in table.texts(escape_tex, "\\textbf{{{}}}")]
    return columns, head, "".join(("\\midrule\n" if i in table.rules else "") + row for i, row in enumerate(rows))


def _tex_row(texts: Sequence[str]) -> str:
    return " & ".join(texts) + " \\\\\n"


def _text(cell: Cell, escape: Callable[[Any], str], bold: str) -> str:
    text = escape(cell.text)
    return bold.format(text) if cell.bold and cell.text else text
