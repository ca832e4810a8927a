"""Tables without a format: cells know their text and whether they are bold; Markdown or LaTeX is made of them last."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from reproducer.reporting.escape import Raw, escape_markdown, escape_tex


@dataclass(frozen=True)
class Cell:
    """`text` as it will read, unescaped; None reads as a dash."""

    text: str | None
    bold: bool = False


@dataclass
class Table:
    """`align` has one of l, r, p (a paragraph) a column; a rule is drawn above the rows that `rules` names by index."""

    headers: list[str]
    align: str
    rows: list[list[Cell]] = field(default_factory=list)
    rules: list[int] = field(default_factory=list)

    @property
    def wide(self) -> bool:
        """True if it needs pages on their side."""
        return len(self.headers) > 11

    def add(self, *cells: "Cell | str | None") -> None:
        row = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        if len(row) != len(self.headers) or len(self.align) != len(self.headers):
            raise ValueError(f"{len(row)} cells for {len(self.headers)} columns")
        self.rows.append(row)

    def rule(self) -> None:
        """Draw a rule above the next row."""
        if self.rows and len(self.rows) not in self.rules:
            self.rules.append(len(self.rows))


def best(shown: Sequence[tuple[float, str] | None], higher_is_better: bool) -> set[int]:
    """Which of the cells, each (value, text as displayed) or None, are best.

    Cells that read the same as the best are equally good: what is compared is what the reader sees. Where only one
    cell has a value there is nothing to be best of.
    """
    there = [(cell, i) for i, cell in enumerate(shown) if cell is not None]
    if len(there) < 2:
        return set()
    values = [cell[0] for cell, _ in there]
    top = values.index(max(values) if higher_is_better else min(values))
    return {i for cell, i in there if cell[1] == there[top][0][1]}


def markdown(table: Table) -> Raw:
    """A table in GitHub's Markdown; rules have no place there."""

    def text(cell: Cell) -> str:
        inner = escape_markdown(cell.text)
        return f"**{inner}**" if cell.bold and cell.text else inner

    sides = {"l": "left", "p": "left", "r": "right"}
    return Raw(
        tabulate(
            [[text(cell) for cell in row] for row in table.rows],
            headers=[escape_markdown(header) for header in table.headers],
            tablefmt="pipe",
            colalign=[sides[side] for side in table.align] if table.rows else None,
            disable_numparse=True,
        )
    )


def tex(table: Table) -> Raw:
    """A booktabs `tabular` of LaTeX."""
    rule = "\\midrule\n"
    return Raw(
        f"\\begin{{tabular}}{{{_columns(table)}}}\n\\toprule\n{_tex_row(_headers(table))}{rule}"
        + "".join((rule if i in table.rules else "") + _tex_row(row) for i, row in enumerate(table.rows))
        + "\\bottomrule\n\\end{tabular}"
    )


def longtable(table: Table) -> Raw:
    """The same as a `longtable`, which goes on over pages."""
    head = f"\\toprule\n{_tex_row(_headers(table))}\\midrule\n"
    return Raw(
        f"\\begin{{longtable}}{{{_columns(table)}}}\n{head}\\endhead\n\\bottomrule\n\\endfoot\n"
        + "".join(("\\midrule\n" if i in table.rules else "") + _tex_row(row) for i, row in enumerate(table.rows))
        + "\\end{longtable}"
    )


def _headers(table: Table) -> list[Cell]:
    return [Cell(header) for header in table.headers]


def _columns(table: Table) -> str:
    paragraphs = table.align.count("p")
    share = max(0.92 - 0.11 * (len(table.align) - paragraphs), 0.15) / max(paragraphs, 1)  # of the line, roughly
    width = f">{{\\raggedright\\arraybackslash}}p{{{share:.2f}\\linewidth}}"
    return "".join(width if side == "p" else side for side in table.align)


def _tex_row(row: Sequence[Cell]) -> str:
    cells = []
    for cell in row:
        inner = escape_tex(cell.text)
        cells.append(f"\\textbf{{{inner}}}" if cell.bold and cell.text else inner)
    return " & ".join(cells) + " \\\\\n"
