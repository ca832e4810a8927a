"""Tables without a format: cells know their text and whether they are bold; Markdown or LaTeX is made of them last."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from reproducer.reporting.escape import Raw, escape_markdown, escape_tex


@dataclass(frozen=True)
class Cell:
    """`text` as it will read, unescaped; None reads as a dash."""

    text: str | None
    bold: bool = False


class Table:
    """What a template fills row by row.

    Attributes:
        align: one of l, r, p (a paragraph) a column; the last one given holds for the rest.
        repeated: so many columns at the left are left blank where they repeat the row above.
        long: in LaTeX it goes on over pages.
    """

    def __init__(self, headers: Sequence[str], align: str, repeated: int = 0, long: bool = False) -> None:
        self.headers = list(headers)
        self.align = align[: len(headers)].ljust(len(headers), align[-1])
        self.repeated, self.long = repeated, long or "p" in self.align
        self.rows: list[list[Cell]] = []
        self.rules: set[int] = set()  # a rule is drawn above these rows
        self._above: list[Cell] = []

    def add(self, cells: Sequence[Any]) -> None:
        row = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        if len(row) != len(self.headers):
            raise ValueError(f"{len(row)} cells for {len(self.headers)} columns")
        same = self.repeated if self._above else 0
        same = next((i for i in range(same) if row[i] != self._above[i]), same)
        self._above = row
        self.rows.append([Cell("") if i < same else cell for i, cell in enumerate(row)])

    def rule(self) -> None:
        """Draw a rule above the next row."""
        if self.rows:
            self.rules.add(len(self.rows))
            self._above = []


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
    """A table in GitHub's Markdown; rules have no place there."""
    sides = {"l": "left", "p": "left", "r": "right"}
    return Raw(
        tabulate(
            [[_text(cell, escape_markdown, "**{}**") for cell in row] for row in table.rows],
            headers=[escape_markdown(header) for header in table.headers],
            tablefmt="pipe",
            colalign=[sides[side] for side in table.align] if table.rows else None,
            disable_numparse=True,
        )
        + "\n"
    )


def tex(table: Table) -> Raw:
    """A booktabs `tabular` of LaTeX, shrunk to the page where it is too large; or a `longtable`."""
    head = f"\\toprule\n{_tex_row([Cell(header) for header in table.headers])}\\midrule\n"
    body = "".join(("\\midrule\n" if i in table.rules else "") + _tex_row(row) for i, row in enumerate(table.rows))
    paragraphs = table.align.count("p")
    share = max(0.92 - 0.11 * (len(table.align) - paragraphs), 0.15) / max(paragraphs, 1)  # of the line, roughly
    paragraph = f">{{\\raggedright\\arraybackslash}}p{{{share:.2f}\\linewidth}}"
    columns = "".join(paragraph if side == "p" else side for side in table.align)
    if table.long:
        return Raw(
            f"{{\\small\n\\begin{{longtable}}{{{columns}}}\n{head}\\endhead\n\\bottomrule\n\\endfoot\n{body}"
            "\\end{longtable}\n}\n"
        )
    return Raw(
        f"\\begin{{fitted}}\n\\begin{{tabular}}{{{columns}}}\n{head}{body}\\bottomrule\n\\end{{tabular}}\n"
        "\\end{fitted}\n"
    )


def _tex_row(row: Sequence[Cell]) -> str:
    return " & ".join(_text(cell, escape_tex, "\\textbf{{{}}}") for cell in row) + " \\\\\n"


def _text(cell: Cell, escape: Callable[[Any], Raw], bold: str) -> str:
    text = escape(cell.text)
    return bold.format(text) if cell.bold and cell.text else text
