"""The report as an article: what a reader meets first, where the rest is, and that all formats say the same."""

import re
from dataclasses import replace

import pytest

from reproducer.reporting import figures
from reproducer.reporting.article import Article, article, title_of
from reproducer.reporting.generations import lines_of
from reproducer.reporting.render import render, row_line, summary_of
from reproducer.stages.results import Results

from . import fake
from .reading import html, latex, links, markdown, section_of, tables


def told(verdicts=None, results: Results | None = None) -> Article:
    results = results or fake.measured(fake.table1("smollm2-135m", seeds=(0, 1, 2), structure_ratio=None), 3)
    models = [fake.change(results.models[0], label="SmolLM2-135M", stands_for="llama-7b")]
    found = fake.four_verdicts() if verdicts is None else verdicts
    return replace(article(fake.change(results, models=models)), verdicts=found, deviations=fake.DEVIATIONS)


def document():
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
    made = [fake.search(8, seed, label=label) for label in ("AdaPruner", "own") for seed in range(2)]
    spec = {"name": "paper", "title": "All of it"}
    return fake.change(results, spec=spec, rows=rows, columns=columns, parts=parts, searches=made)


def test_the_answer_comes_first_and_what_is_no_argument_last():
    text = markdown(told())
    found = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert found[:4] == ["What holds", "Results", "Deviations from the paper", "The claims one by one"]
    assert found[-1] == "Appendix" and found.index("Cost") > found.index("Searches")
    appendix = re.findall(r"^### (.*)$", section_of(text, "Appendix"), re.MULTILINE)
    assert appendix[0] == "Beside the paper’s Table 1" and appendix[-3:] == ["Command", "Budget", "Provenance"]
    tex, page = latex(told()), html(told())
    assert tex.count("\\section*{") == page.count("<h2 ") == len(found)
    assert text.count("\n### ") == tex.count("\\subsection*{") == page.count("<h3 ")
    assert all("each stage counted once" in one for one in (text, tex, page))


def test_a_users_own_spec_tells_nothing_of_the_paper():
    results = fake.quickstart()
    text = markdown(results)
    assert not any(word in text for word in ("aper’s", "claim", "Deviations", "LLaMA", "7B"))
    assert "- 20%, w/o tune: AdaPruner has the lowest perplexity, 61.5 as the mean of Python" in text
    assert "next is LLM-Pruner-E2 with 71.7." in text
    results = fake.change(results, spec=results.spec | {"reproduces": {"table": 5}})
    assert "holds no numbers of the paper’s Table 5" in markdown(results)


def test_the_title_names_the_model_that_ran():
    results = fake.table1("smollm2-135m")
    given = "Structured pruning of LLaMA-7B at a 20% pruning ratio"
    results = fake.change(results, spec=results.spec | {"title": given})
    assert title_of(results) == f"{given} (smollm2-135m)", "nothing says that it stands for LLaMA-7B"
    model = fake.change(results.models[0], label=r"Smol\1", stands_for="llama-7b")
    assert title_of(fake.change(results, models=[model])) == r"Structured pruning of Smol\1 at a 20% pruning ratio"
    several = [fake.change(model, label=label, stands_for=None) for label in ("Small", "Smaller", "Least", "Small")]
    assert title_of(fake.change(results, models=several)) == f"{given} (Small; 2 others)"


def test_what_has_not_run_is_left_out_of_the_tables_and_named():
    results = fake.measured(fake.table1("smollm2-135m", seeds=(0, 1, 2), structure_ratio=None), 3)
    rows = [
        fake.change(row, status="missing", metrics=dict.fromkeys(row.metrics)) if row.label == "Vector" else row
        for row in results.rows
    ]
    text = markdown(told(results=fake.change(results, rows=rows)))
    assert "- Not run: Vector, 20%, w/o tune, seeds 0, 1, 2" in section_of(text, "Not done")
    for section in ("Results", "All measures", "Cost"):
        assert "| Vector " not in section_of(text, section) and "| LLM-Pruner-E2" in section_of(text, section)
    assert "are left out.\n" in section_of(text, "Results")
    some = [fake.change(row, status="missing", metrics=row.metrics | {"ptb_ppl": None}) for row in results.rows[:2]]
    broken = [fake.failed("vector", "boom | <b>", model="smollm2-135m")]
    text = markdown(told(results=fake.change(results, rows=[*some, *results.rows[2:-1], *broken])))
    assert "30 of 33 rows done, 1 failed, 2 not run or in part (see “Not done” in the appendix); seeds 0, 1, 2." in text
    assert "- In part: " in section_of(text, "Not done")
    assert r"- Failed: Vector, 20%, w/o tune, seed 0: boom \| \<b\>" in section_of(text, "Not done")


def test_verdicts_say_why():
    text = markdown(told())
    (table,) = tables(told(), "What holds")
    assert [line["Verdict"] for line in table] == ["supported", "contradicted", "inconclusive", "not tested"]
    assert [line["Here"] for line in table] == [
        "−10.3% [−14.0, −6.6], 5 seeds",
        "−1.84 points [−2.60, −1.10], 5 seeds",
        "96.1% [93.0, 99.2], 5 seeds; not significant; such a run finds 4.5% or more beyond 96.5%, four times in five",
        "too few trials: it is about 300",
    ]
    assert [line["Paper"] for line in table] == ["−8.1%", "+0.9 points", "97.1%", "−150 trials"]
    assert "**1 supported, 1 contradicted, 1 inconclusive, 1 not tested**." in text
    slugs = {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in re.findall(r"(?m)^#+ (.*)$", text)}
    assert len(links(text)) == 4 and {link[1:] for link in links(text)} <= slugs
    assert [line["Claim"][:2] for line in tables(told(), "Not tested")[0]] == ["4."]


def test_of_many_claims_the_first_screen_has_the_abstracts_and_what_is_decided():
    few = [fake.told("inconclusive", "few seeds", fake.evidence(), number=5 + i) for i in range(9)]
    text = markdown(told([*fake.four_verdicts(), *few]))
    (table,) = tables(told([*fake.four_verdicts(), *few]), "What holds")
    assert len(table) == 2 and text.count("\n### Claim ") == 12
    assert "the others follow under “The claims one by one”" in text


@pytest.mark.parametrize(("columns", "kind"), [(fake.TABLE1, "perplexity"), (fake.TABLE1[2:], "accuracy")])
def test_the_first_figure_stands_above_the_results_and_does_not_come_again(columns, kind, tmp_path):
    made = article(fake.change(fake.table1(), columns=columns))
    made = replace(made, pictures=figures.draw(made.results, tmp_path))
    assert made.key_picture.kind == kind
    text = markdown(made)
    assert text.count(f"figures/average-{kind}.png") == 1
    assert text.index("![") < text.index("## Results")


def test_the_terminal_ends_with_the_table_and_the_count_of_verdicts():
    lines = summary_of(told()).splitlines()
    assert next(line for line in lines if "AdaPruner" in line).endswith("*")
    assert lines[-1] == "Claims of the paper: 1 supported, 1 contradicted, 1 inconclusive, 1 not tested."
    assert max(map(len, lines)) <= 140
    row = fake.quickstart().rows[0]
    assert row_line(row, fake.QUICKSTART).startswith("smollm2-135m, SmolLM2-135M, seed 0: Python topics 31.2, Docst")


def test_of_a_document_table_and_figures_are_those_of_its_first_spec(tmp_path):
    results = document()
    (compact,) = tables(results, "Results")
    assert "C4↓" not in compact[0] and "Extra" not in {line["Method"] for line in compact}
    perplexities = tables(results, "All measures")[0]
    assert {"WikiText2↓", "PTB↓", "C4↓"} < perplexities[0].keys() and "Extra" in {one["Method"] for one in perplexities}
    of_first = results.of_part(results.parts[0])
    drawn = {picture.png.name: picture.png.read_bytes() for picture in figures.draw(results, tmp_path / "all")}
    alone = {picture.png.name: picture.png.read_bytes() for picture in figures.draw(of_first, tmp_path / "first")}
    for kind in ("perplexity", "accuracy"):
        assert drawn[f"average-{kind}.png"] == alone[f"average-{kind}.png"]


def test_the_appendix_of_markdown_is_a_file_of_its_own(tmp_path):
    written = {path.name for path in render(document(), tmp_path)}
    assert {"report.md", "appendix.md"} <= written
    report, appendix = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.md", "appendix.md"))
    assert "[appendix.md](appendix.md)" in report and "[report.md](report.md)" in appendix
    headings = [{*re.findall(r"(?m)^## (.*)$", text)} for text in (report, appendix)]
    assert "Results" in headings[0] and "Provenance" in headings[1] and not headings[0] & headings[1]


def test_generations_keep_their_lines():
    assert lines_of("\n a\n\n\n  b\nc \n\n") == ["a", "", "b", "c"]
    assert lines_of("  \n") == []
    text = section_of(markdown(fake.measured(fake.table1(), 3)), "Generated text")
    assert text.count("\n**") == 11 and "prompt included" not in text
    assert "**llama-7b**\n\n> It is large.\n>\n> \\# 1. \\*All\\* of it\\\n> and so on\n" in text


def test_settings_say_how_it_was_run():
    text = section_of(markdown(fake.measured(fake.table1(), 3)), "Settings")
    assert "- **Recovery LoRA**: rank 8, targets {q\\_proj, v\\_proj}; 40 steps, 640 examples." in text
    assert "BoolQ (acc, 100 items)" in text and "Read: WikiText2, 64 windows" in text
    assert "10 samples of 128 tokens from gutenberg, passages cut at that length, drawn by the seed from 2,171" in text
    assert r"- **Search of AdaPruner**: sampler local" in text and r"alpha1 \[0, 1\]" in text
    assert tables(fake.measured(fake.table1(), 3), "Budget")[0][-1]["Stages"] == "zeroshot"
