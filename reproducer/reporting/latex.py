"""report.tex, made from the report's Markdown, and tables to paste into a document."""

from __future__ import annotations

from markdown_it.token import Token

from reproducer.reporting.escape import Raw, escape_tex
from reproducer.reporting.markdown import begins_block, between, environment, plain, rows_of, tokens

SECTIONS = {"h2": "section", "h3": "subsection", "h4": "subsubsection"}
BLOCKS = {
    "bullet_list_open": "\\begin{itemize}\n",
    "bullet_list_close": "\\end{itemize}\n\n",
    "blockquote_open": "\\begin{quote}\n",
    "blockquote_close": "\\end{quote}\n\n",
    "list_item_open": "\\item ",
    "paragraph_close": "\n\n",
}
MARKS = {
    "strong_open": "\\textbf{",
    "strong_close": "}",
    "em_open": "\\emph{",
    "em_close": "}",
    "softbreak": "\n",
    "hardbreak": "\\\\\n",
}
LONG = 40  # characters of a cell, of which more are broken into lines
ON_A_PAGE = 40  # rows
LEAST = 0.1  # of a line that a cell with lines takes, even if the table is then wider than the page
LETTER, GAP = 0.0096, 0.032  # of a line of LaTeX: what a small letter takes, and what parts columns


def latex(title: str, report: str, appendix: str) -> str:
    """The document of a report and its appendix, both in Markdown; its figures lie in figures/."""
    body = f"{_body(tokens(report))}\n\\room\\section*{{Appendix}}\n{_body(tokens(appendix), deeper=True)}"
    return environment().get_template("document.tex.j2").render(title=Raw(escape_tex(title)), body=Raw(body))


def tabular(markdown: str) -> str:
    """A table of Markdown as a booktabs `tabular`, and the packages that it needs."""
    columns, head, body = _parts(tokens(markdown))
    needed = "booktabs, array" if "p{" in columns else "booktabs"
    return f"% \\usepackage{{{needed}}}\n\\begin{{tabular}}{{{columns}}}\n{head}{body}\\bottomrule\n\\end{{tabular}}\n"


def _body(found: list[Token], deeper: bool = False) -> str:
    """Blocks of Markdown; `deeper`: each heading one level down."""
    parts, place = [], 0
    while place < len(found):
        token = found[place]
        if token.type == "table_open":
            end = between(found, place)
            parts.append(_table(found[place : end + 1]))
            place = end
        elif token.type == "heading_open":
            level = f"h{int(token.tag[1]) + deeper}"
            parts.append(f"\\room\\{SECTIONS[level]}*{{{_inline(found[place + 1])}}}\n\n")
            place += 2
        elif token.type in ("code_block", "fence"):
            parts += [f"\\texttt{{{escape_tex(line)}}}\n\n" for line in token.content.splitlines() if line]
        elif token.type == "inline":
            parts.append(_inline(token))
        else:
            parts.append(BLOCKS.get(token.type, ""))
        place += 1
    return "".join(parts)


def _inline(token: Token) -> str:
    parts = []
    for child in token.children or []:
        if child.type == "image":
            name = child.attrs["src"]
            parts.append(f"\\includegraphics[width=\\linewidth,height=6cm,keepaspectratio]{{{name}}}")
        else:
            parts.append(MARKS.get(child.type) or escape_tex(child.content))
    return "".join(parts)


def _table(found: list[Token]) -> str:
    """A table shrunk to the page where it is too wide; or a `longtable`, which goes on over pages."""
    columns, head, body = _parts(found)
    if body.count("\n") > ON_A_PAGE or ("p{" in columns and f"p{{{LEAST:.2f}" not in columns):
        return (
            f"{{\\small\n\\begin{{longtable}}{{{columns}}}\n{head}\\endhead\n\\bottomrule\n\\endfoot\n{body}"
            "\\end{longtable}\n}\n\n"
        )
    table = f"\\begin{{tabular}}{{{columns}}}\n{head}{body}\\bottomrule\n\\end{{tabular}}"
    return f"\\begin{{fitted}}\n{table}\n\\end{{fitted}}\n\n"


def _parts(found: list[Token]) -> tuple[str, str, str]:
    """The columns, the head between its rules, and the rows of a table."""
    rows = rows_of(found)
    longest = [max(len(plain(cell)) for cell in column) for column in zip(*rows, strict=True)]
    sides = [
        "p" if n > LONG else "r" if "right" in str(one.attrs.get("style")) else "l"
        for n, one in zip(longest, (one for one in found if one.type == "th_open"), strict=True)
    ]
    others = sum(GAP + LETTER * n for n, side in zip(longest, sides, strict=True) if side != "p")
    share = max((1 - others) / max(sides.count("p"), 1) - GAP, LEAST)  # of the line, roughly
    paragraph = f">{{\\raggedright\\arraybackslash}}p{{{share:.2f}\\linewidth}}"
    columns = "".join(paragraph if side == "p" else side for side in sides)
    head, *body = (" & ".join(map(_inline, row)) + " \\\\\n" for row in rows)
    blocks = begins_block(rows)
    lines = [("\\midrule\n" if i in blocks else "") + row for i, row in enumerate(body, start=1)]
    return columns, f"\\toprule\n{head}\\midrule\n", "".join(lines)
