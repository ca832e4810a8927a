"""Markdown: written from templates that escape every value, and read back as tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markdown_it import MarkdownIt
from markdown_it.token import Token

from reproducer.reporting import numbers
from reproducer.reporting.escape import Raw, escape_markdown, one_line
from reproducer.reporting.tables import Cell, Table


def render(template: str, tables: dict[str, Table] | None = None, **content: Any) -> Raw:
    """A template of `templates/`; the tables of it that have a name are added to `tables`."""
    text = environment().get_template(template).render(content, tables={} if tables is None else tables)
    return Raw("\n".join(_lines(text)).rstrip() + "\n")


def _lines(text: str) -> Iterator[str]:
    """Without the spaces that tags leave at the ends of lines, and with one blank line where there are several."""
    blank = True
    for line in text.splitlines():
        if line.strip() or not blank:
            yield line.rstrip() if line.startswith(("    ", "|")) else " ".join(line.split())
        blank = not line.strip()


@cache
def environment() -> Environment:
    """Templates that escape whatever they print: blocks are `<% %>`, values `<< >>`."""

    @pass_context  # so that constants, too, are escaped when they are printed
    def finalize(context: Context, value: Any) -> Raw:
        if not isinstance(value, Table):
            return escape_markdown(value)
        if value.name:
            context["tables"][value.name] = value
        return value.markdown()

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        extensions=["jinja2.ext.do"],
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
    made.filters |= numbers.FILTERS
    made.filters |= {"verbatim": Raw, "bold": Cell, "slug": slug}
    made.globals |= {"Table": Table}
    return made


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", one_line(heading).lower()).replace(" ", "-")


def tokens(text: str) -> list[Token]:
    """What a reader of CommonMark and GitHub's tables makes of Markdown; HTML in it is text."""
    return MarkdownIt("commonmark", {"html": False}).enable("table").parse(text)


def plain(inline: Token) -> str:
    """The text of a token of inline Markdown, without its marks."""
    return "".join(" " if child.type == "softbreak" else child.content for child in inline.children or [])


def rows_of(table: list[Token]) -> list[list[Token]]:
    """The cells of the tokens of a table, row by row, the head first: each the token of its inline Markdown."""
    rows: list[list[Token]] = []
    for token in table:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(token)
    return rows


def begins_block(rows: list[list[Token]]) -> set[int]:
    """The rows, the head being row 0, that begin a block: the others leave the first cell blank."""
    first = [bool(row[0].content) for row in rows]
    return {i for i in range(2, len(rows)) if first[i]} if not all(first) else set()


def between(all_tokens: list[Token], start: int) -> int:
    """The place of the token that closes the one at `start`."""
    opened = all_tokens[start]
    closing = opened.type.replace("_open", "_close")
    return next(
        i
        for i in range(start + 1, len(all_tokens))
        if (all_tokens[i].type, all_tokens[i].level) == (closing, opened.level)
    )
