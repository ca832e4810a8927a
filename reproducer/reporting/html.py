"""report.html: one file, made from the report's Markdown, that asks for no other."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from reproducer.reporting.escape import Raw
from reproducer.reporting.markdown import begins_block, between, environment, plain, rows_of, slug, tokens
from reproducer.reporting.verdicts import OUTCOMES

LONG = 40  # characters, of which more are broken into lines


class Page:
    """A page that is made part by part, its figures read from `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.anchors: dict[str, str] = {}  # and the headings that they are of

    def body(self, found: Sequence[Token]) -> Raw:
        """Tokens of Markdown as HTML."""
        prepared: list[Token] = []
        place = 0
        while place < len(found):
            token = found[place]
            if token.type == "heading_open":
                token.attrSet("id", self._anchor(token.tag, plain(found[place + 1])))
            for child in token.children or []:
                if child.type == "image":
                    child.attrSet("src", self._embedded(str(child.attrs["src"])))
            end = between([*found], place) + 1 if token.type == "table_open" else place + 1
            prepared += _table(found[place:end]) if token.type == "table_open" else [token]
            place = end
        markdown = MarkdownIt("commonmark", {"xhtmlOut": False})
        return Raw(markdown.renderer.render(prepared, markdown.options, {}))

    def folds(self, found: Sequence[Token]) -> Raw:
        """Tokens of Markdown as HTML, each section of the second level as a part that a reader opens."""
        starts = [i for i, token in enumerate(found) if token.type == "heading_open" and token.tag == "h2"]
        parts = []
        for start, end in zip(starts, [*starts[1:], len(found)], strict=True):
            for token in found[start : start + 3]:
                token.tag = token.tag.replace("h2", "h3")
            heading, rest = self.body(found[start : start + 3]), self.body(found[start + 3 : end])
            parts.append(f"<details>\n<summary>{heading.strip()}</summary>\n{rest}</details>\n")
        return Raw("".join(parts))

    def _anchor(self, tag: str, heading: str) -> str:
        anchor, again = slug(heading), 0
        while anchor in self.anchors:
            again += 1
            anchor = f"{slug(heading)}-{again}"
        self.anchors[anchor] = heading if tag == "h2" else ""
        return anchor

    def _embedded(self, name: str) -> str:
        return "data:image/png;base64," + base64.b64encode((self.folder / name).read_bytes()).decode("ascii")


def html(title: str, report: str, appendix: str, folder: Path) -> str:
    """The page of a report and its appendix, both in Markdown, whose figures lie in `folder`."""
    page = Page(folder)
    body = page.body(tokens(f"{report}\n## Appendix\n")) + page.folds(tokens(appendix))
    contents = [(Raw(anchor), Raw(escape(heading))) for anchor, heading in page.anchors.items() if heading]
    return (
        environment().get_template("page.html.j2").render(title=Raw(escape(title)), body=Raw(body), contents=contents)
    )


def _table(found: Sequence[Token]) -> list[Token]:
    """The tokens of a table, scrolled where it is wide, its head ready to be sorted by."""
    rows = rows_of([*found])
    blocks, row = begins_block(rows), -1
    for token, after in zip(found, [*found[1:], found[-1]], strict=True):
        if token.type == "tr_open":
            row += 1
            if row in blocks:
                token.attrSet("class", "block")
        if token.type in ("td_open", "th_open"):
            classes = ["r"] if "right" in str(token.attrs.pop("style", "")) else []
            text = plain(after)
            classes += [text.replace(" ", "-")] * (text in OUTCOMES) + ["long"] * (len(text) > LONG)
            if classes:
                token.attrSet("class", " ".join(classes))
        if token.type == "th_open":
            after.children = [_raw('<button type="button">'), *(after.children or []), _raw("</button>")]
    return [_raw('<div class="table">\n'), *found, _raw("</div>\n")]


def _raw(text: str) -> Token:
    return Token("html_inline", "", 0, content=text)
