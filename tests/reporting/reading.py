"""Reading a report back, as a reader of its Markdown does."""

from markdown_it import MarkdownIt

from reproducer.reporting.comparison import compare
from reproducer.reporting.render import LATEX, MARKDOWN, page
from reproducer.stages.results import Results


def markdown(results: Results) -> str:
    return page(results.model_copy(update={"paper": compare(results)}), MARKDOWN)


def latex(results: Results) -> str:
    return page(results.model_copy(update={"paper": compare(results)}), LATEX)


def tables(results: Results, section: str) -> list[list[dict[str, str]]]:
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
    """The text under a heading of the second level; empty without one."""
    parts = text.split("\n## ")
    return next((part for part in parts if part.startswith(f"{name}\n")), "")


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
