"""Markdown on a terminal."""

import textwrap

from tabulate import tabulate

from reproducer.reporting.markdown import between, plain, rows_of, tokens

WIDTH, CELL = 100, 46  # characters of a line of text, and of a line in a cell


def terminal(markdown: str) -> str:
    """Headings, paragraphs and tables as plain text; a star stands for bold in a cell."""
    parts = []
    found = tokens(markdown)
    place = 0
    while place < len(found):
        if found[place].type == "table_open":
            end = between(found, place)
            table = found[place:end]
            cells = [[plain(cell) + " *" * cell.content.startswith("**") for cell in row] for row in rows_of(table)]
            aligned = [str(token.attrs.get("style")) for token in table if token.type == "th_open"]
            sides = ["right" if "right" in style else "left" for style in aligned]
            parts.append(
                tabulate(
                    cells[1:],
                    headers=cells[0],
                    tablefmt="simple",
                    colalign=sides if cells[1:] else None,
                    maxcolwidths=[CELL] * len(sides) if cells[1:] else None,
                    disable_numparse=True,
                )
            )
            place = end
        elif found[place].type == "inline":
            parts.append(textwrap.fill(plain(found[place]), WIDTH))
        place += 1
    return "\n\n".join(parts)
