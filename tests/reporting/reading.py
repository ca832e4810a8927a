"""Reading a report back, as a reader of its Markdown or of its page does."""

import re
from html.parser import HTMLParser
from pathlib import Path

from markdown_it import MarkdownIt

from reproducer.reporting import html as page
from reproducer.reporting import latex as document
from reproducer.reporting.article import Article, article
from reproducer.reporting.render import texts
from reproducer.stages.results import Results

__all__ = ["Page", "html", "latex", "links", "markdown", "read", "section_of", "tables"]


VOID = {"meta", "img", "br"}


def markdown(results: Results | Article) -> str:
    """The report and, one level of headings down, its appendix."""
    written = texts(_article(results))
    appendix = re.sub(r"(?m)^(#+ )", r"#\1", written.appendix)
    return f"# {_article(results).title}\n\n{written.report}\n## Appendix\n\n{appendix}"


def latex(results: Results | Article) -> str:
    written = texts(_article(results))
    return document.latex(_article(results).title, written.report, written.appendix)


def html(results: Results | Article) -> str:
    written = texts(_article(results))
    return page.html(_article(results).title, written.report, written.appendix, Path())


def _article(results: Results | Article) -> Article:
    return results if isinstance(results, Article) else article(results)


def tables(results: Results | Article, section: str) -> list[list[dict[str, str]]]:
    """The tables of a section: a dict a row, by the headings; cells as Markdown, `**` where they are bold."""
    found: list[list[dict[str, str]]] = []
    headings: list[str] = []
    for line in section_of(markdown(results), section).splitlines():
        if not line.startswith("|"):
            headings = []
            continue
        cells = [cell.strip().replace("\\", "") for cell in line.strip("|").split("|")]
        if not headings:
            headings = cells
            found.append([])
        elif not set(line) <= set("|:-"):
            found[-1].append(dict(zip(headings, cells, strict=True)))
    return found


def section_of(text: str, name: str) -> str:
    """The text under a heading of the second or third level, up to the next one of its own; empty without one."""
    for mark in ("\n## ", "\n### "):
        for part in text.split(mark)[1:]:
            if part.startswith(f"{name}\n"):
                return part.split("\n## ")[0]
    return ""


def read(source: str) -> tuple[str, set[str]]:
    """What a CommonMark reader sees of `source`, and the kinds of tokens it is made of."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source)
    kinds, text = set(), []
    for token in tokens:
        kinds.add(token.type)
        for child in token.children or []:
            kinds.add(child.type)
            text.append(child.content if child.type != "softbreak" else " ")
    return "".join(text), kinds


def links(source: str) -> list[str]:
    """Where the links of Markdown lead to."""
    tokens = MarkdownIt("commonmark").enable("table").parse(source)
    children = [child for token in tokens for child in token.children or []]
    return [str(child.attrs["href"]) for child in children if child.type == "link_open"]


class Page(HTMLParser):
    """The elements of a page; every one that is opened has to be closed, in its order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]
