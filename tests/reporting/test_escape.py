"""A value reads as it was given, in Markdown and in LaTeX, whatever it holds."""

import re
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproducer.reporting.escape import Raw, escape_markdown, escape_tex, one_line, without_paths
from reproducer.reporting.markdown import environment, rows_of, tokens

from .reading import read

HOSTILE = r"a|b_\input{x}<script>alert(1)</script> *b* `c` [d](http://e) ![f](g) ~~h~~ $i^2$ & % # α→ḡ 中 " + "\nsecond"

TRICKY = st.text(alphabet=st.sampled_from(list(string.printable) + list("αḡ→–…±é中😀ﬁ\ud800\x00\u202e")), max_size=40)


@given(TRICKY)
def test_markdown_reads_as_it_was_given(text):
    escaped = escape_markdown(text)
    shown, kinds = read(escaped)
    assert shown == one_line(text)
    assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}
    for made in (escaped, escape_tex(one_line(text))):
        made.encode("utf-8")
        assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs"} for c in made)


@given(TRICKY)
def test_a_cell_of_markdown_stays_one_cell(text):
    rows = rows_of(tokens(f"| a | b |\n|---|---|\n| {escape_markdown(text)} | z |\n"))
    assert [len(row) for row in rows] == [2, 2] and rows[1][1].content == "z"


def test_a_hostile_name_in_markdown():
    shown, kinds = read(escape_markdown(HOSTILE))
    assert shown == one_line(HOSTILE)
    assert not kinds & {"html_inline", "link_open", "image", "em_open", "strong_open", "code_inline", "s_open"}


@pytest.mark.parametrize("text", ["see https://example.org/x", "www.example.org", "me@example.org"])
def test_bare_addresses_do_not_become_links_on_github(text):
    assert not re.search(r"https?://|www\.|\w@\w", escape_markdown(text))


@given(TRICKY)
def test_tex_leaves_no_special_character_bare(text):
    escaped = escape_tex(one_line(text))
    commands = re.sub(r"\\[a-zA-Z]+(\{\})?|\\[{}$&#%_,]|\$[_^]\{?[-\d]\}?\$|\$(\\[a-z]+|-)\$", "", escaped)
    commands = re.sub(r"U\+[0-9A-F]{4,6}", "", commands)
    assert not set(commands) & set('\\$&#%_^~<>|"`\n')
    assert commands.count("{") == commands.count("}")


def test_tex_of_the_fields_own_letters():
    assert escape_tex("½") == "1/2"
    assert escape_tex("α₁ ↓ ± ḡ é") == r"$\alpha$$_1$ $\downarrow$ $\pm$ g é"
    assert escape_tex(r"\input{x}") == r"\textbackslash{}input\{x\}"
    assert escape_tex("中") == r"\texttt{U+4E2D}"


def test_a_template_cannot_forget_to_escape():
    def rendered(source):
        return environment().from_string(source).render(x="a_b&<", y=["_", "_"])

    escaped = escape_markdown("a_b&<")
    assert rendered("<< x >>") == escaped != "a_b&<"
    assert rendered("<< 'a_b&<' >>") == escaped
    assert rendered("<< x ~ '_' >>") == escape_markdown("a_b&<_")
    assert rendered("<% for z in y %><< z >><% endfor %>") == escape_markdown("_") * 2
    assert rendered("<% macro m() %><< x >><% endmacro %><< m() >>") == escaped
    assert rendered("<% set z %><< x >><% endset %><< z >>") == escaped
    assert environment().from_string("<< x >>").render(x=Raw("a_b")) == "a_b"


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
