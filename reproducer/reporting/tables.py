"""Tables: cells know their text and whether they are bold; all formats are made from the Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reproducer.reporting.escape import Raw, escape_markdown, one_line


@dataclass(frozen=True)
class Cell:
    """`text` as it will read, unescaped; None reads as a dash."""

    text: str | None
    bold: bool = False


class Table:
    """What is filled row by row.

    Attributes:
        align: `l` or `r` a column; the last letter holds for the rest.
        repeated: so many columns at the left read blank where they repeat the row above.
        name: of its own file, tables/`name`.tex; None for a table that has none.
    """

    def __init__(self, headers: Sequence[str], align: str, repeated: int = 0, name: str | None = None) -> None:
        self.headers = list(headers)
        self.align = align[: len(headers)].ljust(len(headers), align[-1])
        self.repeated, self.name = repeated, name
        self.rows: list[list[Cell]] = []
        self.blocks: set[int] = set()  # the rows that begin a block

    def add(self, cells: Sequence[Any]) -> None:
        row = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        if len(row) != len(self.headers):
            raise ValueError(f"{len(row)} cells for {len(self.headers)} columns")
        self.rows.append(row)

    def rule(self) -> None:
        """Begin a block with the next row: what it repeats of the row above is shown."""
        self.blocks.add(len(self.rows))

    def markdown(self) -> Raw:
        """The table in GitHub's Markdown, its columns even."""
        shown = [[_markdown(cell) for cell in row] for row in self._rows()]
        rows = [[str(escape_markdown(header)) for header in self.headers], *shown]
        sides = [(side, max(3, *map(len, column))) for side, *column in zip(self.align, *rows, strict=True)]
        rules = ["-" * (n + 1) + ":" if side == "r" else ":" + "-" * (n + 1) for side, n in sides]
        even = [
            [text.rjust(n) if side == "r" else text.ljust(n) for text, (side, n) in zip(row, sides, strict=True)]
            for row in rows
        ]
        head, *body = (f"| {' | '.join(row)} |\n" for row in even)
        return Raw("".join([head, f"|{'|'.join(rules)}|\n", *body]))

    def plain(self) -> str:
        """The table for a terminal; a star stands for bold."""
        from tabulate import tabulate

        rows = [[one_line(cell.text) + " *" * cell.bold for cell in row] for row in self._rows()]
        sides = ["right" if side == "r" else "left" for side in self.align] if rows else None
        head = [one_line(header) for header in self.headers]
        return tabulate(rows, headers=head, tablefmt="simple", colalign=sides, disable_numparse=True)

    def _rows(self) -> list[list[Cell]]:
        """The rows as they are shown: what repeats the row above is blank."""
        shown = []
        for index, row in enumerate(self.rows):
            above = [] if index == 0 or index in self.blocks else self.rows[index - 1][: self.repeated]
            same = next((i for i, cell in enumerate(above) if cell != row[i]), len(above))
            shown.append([Cell("")] * same + row[same:])
        return shown


def _markdown(cell: Cell) -> str:
    text = " ".join(escape_markdown(cell.text).split())
    return f"**{text}**" if cell.bold and cell.text else text
