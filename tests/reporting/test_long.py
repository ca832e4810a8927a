"""A long report: what is argument comes first, and the rest is folded or stands in the appendix."""

import re
from pathlib import Path

from reproducer.reporting import figures
from reproducer.reporting.html import FOLDED
from reproducer.reporting.html import Page as HtmlPage
from reproducer.reporting.markdown import tokens
from reproducer.reporting.render import render
from reproducer.reporting.runs import Run
from tests.reporting import fake
from tests.reporting.reading import Page, html, markdown, section_of, tables


def document(searches: int = 2):
    """Table 1, and a second spec with one more row and one more column of its own; two labels of searches."""
    results = fake.measured(fake.table1("smollm2-135m", seeds=(0, 1, 2), structure_ratio=None), 5)
    extra = [
        fake.change(row, label="Extra", method="vector", metrics={**row.metrics, "c4_ppl": 20.0})
        for row in results.rows
        if row.method == "vector" and row.recovery == "none"
    ]
    rows = [*results.rows, *extra]
    columns = [*results.columns, fake.ppl("c4", "C4")]
    keys = [column.key for column in results.columns]
    parts = [
        {"spec": {"name": "table1", "reproduces": {"table": 1}}, "rows": [*range(len(results.rows))], "columns": keys},
        {"spec": {"name": "own"}, "rows": [0, *range(len(results.rows), len(rows))], "columns": ["c4_ppl"]},
    ]
    made = [fake.search(8, seed, label=label) for label in ("AdaPruner", "own") for seed in range(searches)]
    spec = {"name": "paper", "title": "All of it"}
    return fake.change(results, spec=spec, rows=rows, columns=columns, parts=parts, searches=made)


def test_the_first_table_of_a_document_is_its_first_specs():
    (compact,) = tables(document(), "Results")
    assert "C4↓" not in compact[0] and "Extra" not in {line["Method"] for line in compact}
    assert "These are the rows of Table 1; all others" in section_of(markdown(document()), "Results")
    perplexities = tables(document(), "All measures")[0]
    assert {"WikiText2↓", "PTB↓", "C4↓"} < perplexities[0].keys() and "Extra" in {one["Method"] for one in perplexities}


def test_a_documents_comparisons_share_a_section():
    text = markdown(document())
    assert "\n## Comparison with the paper’s tables and figures\n" in text and "\n### Table 1\n" in text


def test_figures_of_a_document_are_of_its_first_spec(tmp_path):
    results = document()
    of_first = results.of_part(results.parts[0])
    drawn = {picture.name: picture.png.read_bytes() for picture in figures.draw(results, tmp_path / "all")}
    alone = {picture.name: picture.png.read_bytes() for picture in figures.draw(of_first, tmp_path / "first")}
    assert drawn["average-perplexity"] == alone["average-perplexity"]
    assert drawn["average-accuracy"] == alone["average-accuracy"]


def test_of_many_claims_the_figure_has_those_of_the_first_screen():
    many = [*fake.four_verdicts(), *[fake.told("inconclusive", reason="few seeds", text=f"No. {i}.") for i in range(9)]]
    shown = [label.get_text() for ax in figures.claims(many).axes for label in ax.get_yticklabels()]
    assert [label[:2] for label in shown] == ["1.", "2."], "the abstract's; the inconclusive ones stand below"
    assert len([label for ax in figures.claims(many[4:]).axes for label in ax.get_yticklabels()]) == 9


def test_the_appendix_of_markdown_is_a_file_of_its_own(tmp_path):
    written = {path.name for path in render(document(), tmp_path)}
    assert {"report.md", "appendix.md"} <= written
    report, appendix = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.md", "appendix.md"))
    assert "[appendix.md](appendix.md)" in report and "[report.md](report.md)" in appendix
    headings = [re.findall(r"(?m)^## (.*)$", text) for text in (report, appendix)]
    assert {"Results", "Cost", "Appendix"} <= {*headings[0]} and {"Settings", "Provenance"} <= {*headings[1]}
    assert not {*headings[0]} & {*headings[1]}


def test_what_is_no_argument_is_folded():
    page = Page(html(document()))
    folds = sum(tag == "details" for tag, _ in page.elements)
    assert folds == sum(tag == "summary" for tag, _ in page.elements) >= 7
    table = "| a |\n|---|\n" + FOLDED * "| 1 |\n"
    assert "<details>" not in HtmlPage(Path()).body(tokens(table))
    assert f"<summary>A table of {FOLDED + 1} rows</summary>" in HtmlPage(Path()).body(tokens(f"{table}| 2 |\n"))


def test_rows_that_share_a_search_have_it_under_either_label():
    """In a document the search of Figure 4's TPE may be that of Table 1's AdaPruner."""
    results = document()
    rows = [
        fake.change(row, stages={"search": f"s{row.seed}"}) if row.label in ("AdaPruner", "Extra") else row
        for row in results.rows
        if row.seed < 2
    ]
    run = Run(fake.change(results, rows=rows, parts=[]))
    assert run.searches("Extra") == run.searches("AdaPruner") and set(run.searches("Extra")) == {0, 1}
    assert run.searches("Vector") == {}
