"""`Results` -> an article in Markdown, HTML and LaTeX, with tables and figures; and what a terminal shows of them."""

from reproducer.reporting.render import render, row_line, summary

__all__ = ["render", "row_line", "summary"]
