import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from reproducer.reporting.escape import Raw, environment, escape_markdown, escape_tex, one_line, without_paths

HOSTILE = r"a|b_\input{x}<script>alert(1)</script> *b* `c` [d](http://e) ![f](g) ~~h~~ $i^2$ & % # α→ḡ 中 " + "\nsecond"

TRICKY = st.text(alphabet=st.sampled_from(list(string.printable) + list("αḡ→–…±é中😀ﬁ")), max_size=40)


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


@settings(max_examples=80, deadline=None)
@given(TRICKY)
def test_markdown_reads_as_it_was_given(text):
    shown, kinds = read(escape_markdown(text))
    assert shown == one_line(text)
    assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}


@settings(max_examples=60, deadline=None)
@given(TRICKY)
def test_markdown_cell_stays_one_cell(text):
    _, kinds = read(f"| a | b |\n|---|---|\n| {escape_markdown(text)} | z |\n")
    assert "table_open" in kinds
    row = MarkdownIt("commonmark").enable("table").parse(f"| a | b |\n|--|--|\n| {escape_markdown(text)} | z |\n")
    cells = [row[i + 1].content for i, token in enumerate(row) if token.type == "td_open"]
    assert len(cells) == 2
    assert cells[1] == "z"


def test_hostile_name_in_markdown():
    shown, kinds = read(escape_markdown(HOSTILE))
    assert shown == one_line(HOSTILE)
    assert not kinds & {"html_inline", "link_open", "image", "em_open", "strong_open", "code_inline", "s_open"}


@pytest.mark.parametrize("text", ["see https://example.org/x", "www.example.org", "me@example.org"])
def test_bare_addresses_do_not_become_links_on_github(text):
    escaped = escape_markdown(text)
    assert not re.search(r"https?://|www\.|\w@\w", escaped)


@settings(max_examples=80, deadline=None)
@given(TRICKY)
def test_tex_leaves_no_special_character_bare(text):
    escaped = escape_tex(text)
    commands = re.sub(r"\\[a-zA-Z]+(\{\})?|\\[{}$&#%_,]|\$[_^]\{?[-\d]\}?\$|\$(\\[a-z]+|-)\$", "", escaped)
    commands = re.sub(r"U\+[0-9A-F]{4,6}", "", commands)
    assert not set(commands) & set('\\$&#%_^~<>|"`\n')
    assert commands.count("{") == commands.count("}")


def test_tex_of_the_fields_own_letters():
    assert escape_tex("α₁ ↓ ± ḡ é") == r"$\alpha$$_1$ $\downarrow$ $\pm$ g é"
    assert escape_tex(r"\input{x}") == r"\textbackslash{}input\{x\}"
    assert escape_tex("中") == r"\texttt{U+4E2D}"


@pytest.mark.parametrize("escape", [escape_markdown, escape_tex])
def test_a_template_cannot_forget_to_escape(escape):
    render = environment(escape).from_string
    assert render("(( x ))").render(x="a_b") == escape("a_b") != "a_b"
    assert render("(( x ~ '_' ))").render(x="a_b") == escape("a_b_")
    assert render("((* for y in x *))(( y ))((* endfor *))").render(x=["_", "_"]) == escape("_") * 2
    assert render("(( x ))").render(x=Raw("a_b")) == "a_b"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("cannot read /home/me/models/llama/config.json: gone", "cannot read …/config.json: gone"),
        ("file:///home/me/x.txt", "file://…/x.txt"),
        (r"C:\Users\me\x.txt and D:/data/y", "…/x.txt and …/y"),
        ("'/home/me/a b'", "'…/a b'"),
        ("~/models/llama", "…/llama"),
        ("w/o tune, E1/E2, org/name, specs/table1.yaml", None),
        ("https://example.org/a/b.html", None),
    ],
)
def test_paths_of_the_machine_are_cut(text, short):
    assert without_paths(text) == (short or text)
