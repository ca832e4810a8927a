"""The formats of a report, and what their templates are rendered with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import Context

from reproducer.paper import costs
from reproducer.reporting import cost, filters, gguf, numbers, searches
from reproducer.reporting.controls import controls
from reproducer.reporting.escape import (
    Raw,
    escape_html,
    escape_markdown,
    escape_plain,
    escape_tex,
    words_html,
    words_markdown,
    words_tex,
)
from reproducer.reporting.rows import CONFIDENCE, estimate, measuring
from reproducer.reporting.tables import Table, html, markdown, plain, tex

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Format:
    """What a format of the report is made with: `macros` is the template that holds its headings, lists, ….

    `escape` makes a value text on one line; `words` escapes the words of the shared templates; `appendix` names the
    file that the report's appendix stands in, where that is one of its own.
    """

    file: str
    macros: str
    escape: Callable[[Any], Raw]
    words: Callable[[str], str]
    table: Callable[[Table], Raw]
    appendix: str | None = None


MARKDOWN = Format("report.md", "markdown.j2", escape_markdown, words_markdown, markdown, "appendix.md")
HTML = Format("report.html", "html.j2", escape_html, words_html, html)
LATEX = Format("report.tex", "latex.j2", escape_tex, words_tex, tex)
FORMATS = (MARKDOWN, HTML, LATEX)
TERMINAL = Format("", "plain.j2", escape_plain, str, plain)


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
    made.filters |= numbers.FILTERS | filters.FILTERS
    made.filters |= {
        function.__name__: function
        for function in (
            searches.alike, searches.rival, searches.searches_metric, searches.gap, searches.states, searches.counted,
            searches.settled, searches.candidates, searches.importances,
            searches.flop_7b,
            controls, cost.seen_columns, cost.unseen_columns, cost.sights, cost.uneven, cost.whole_costs,
            cost.seconds_7b, gguf.spread,
        )
    }  # fmt: skip
    made.filters |= {"mean": fmean, "median": median, "verbatim": Raw, "with_interval": numbers.with_interval}
    made.filters |= {"measuring": measuring, "estimate": estimate}
    made.globals |= {name: getattr(searches, name) for name in ("NEAR", "PARAMETERS_7B", "FORWARD", "FORWARD_BACKWARD")}
    made.globals |= {
        "paper_costs": costs(),
        "SPEED": searches.SPEED,
        "CONFIDENCE": CONFIDENCE,
    }
    made.globals |= {"FEW": filters.FEW, "Table": Table}
    made.globals |= {
        name: macro for name, macro in vars(made.get_template(form.macros).module).items() if name[0] != "_"
    }
    return made
