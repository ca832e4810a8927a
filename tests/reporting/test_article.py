"""The report as an article: what a reader meets first, and where the rest is."""

import re
from dataclasses import replace

import pytest

from reproducer.reporting import figures
from reproducer.reporting.article import Article, article, title_of
from reproducer.reporting.render import terminal_of
from reproducer.reporting.rules.evidence import Missing
from reproducer.stages.results import Results

from . import fake
from .reading import html, latex, links, markdown, section_of, tables


def told(verdicts=None, results: Results | None = None) -> Article:
    results = results or fake.measured(fake.table1("smollm2-135m", seeds=(0, 1, 2), structure_ratio=None), 3)
    models = [fake.change(results.models[0], label="SmolLM2-135M", stands_for="llama-7b")]
    found = fake.four_verdicts() if verdicts is None else verdicts
    return replace(article(fake.change(results, models=models)), verdicts=found, deviations=fake.DEVIATIONS)


def sections(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


def test_the_answer_comes_first_and_the_appendix_last():
    text = markdown(told())
    found = sections(text)
    assert found[:4] == ["What holds", "Results", "Deviations from the paper", "The claims one by one"]
    assert found[-1] == "Appendix" and found.index("Cost") > found.index("Searches")
    appendix = re.findall(r"^### (.*)$", section_of(text, "Appendix"), re.MULTILINE)
    assert appendix[0].startswith("Search: ") and appendix[-4:] == ["Settings", "Environment", "Command", "Provenance"]
    results = section_of(text, "Results")
    assert not any(word in results for word in ("Removed", "Time", "memory"))
    assert latex(told()).count("\\section*{") == html(told()).count("<h2 ") == len(found)


def test_the_title_names_the_model_that_ran():
    results = fake.table1("smollm2-135m")
    given = "Structured pruning of LLaMA-7B at a 20% pruning ratio"
    results = fake.change(results, spec=results.spec | {"title": given})
    assert title_of(results) == f"{given} (smollm2-135m)", "nothing says that it stands for LLaMA-7B"
    model = fake.change(results.models[0], label=r"Smol\1", stands_for="llama-7b")
    assert title_of(fake.change(results, models=[model])) == r"Structured pruning of Smol\1 at a 20% pruning ratio"
    assert title_of(fake.quickstart()) == "Five ways to prune SmolLM2-135M by a fifth"
    several = [fake.change(model, label=label, stands_for=None) for label in ("Small", "Smaller", "Least", "Small")]
    assert title_of(fake.change(results, models=several)) == f"{given} (Small; 2 others)"


def test_lines_that_have_not_run_are_left_out_of_the_tables_and_told():
    results = fake.measured(fake.table1("smollm2-135m", seeds=(0, 1, 2), structure_ratio=None), 3)
    rows = [
        fake.change(row, status="missing", metrics=dict.fromkeys(row.metrics)) if row.label == "Vector" else row
        for row in results.rows
    ]
    text = markdown(told(results=fake.change(results, rows=rows)))
    assert "Vector" in section_of(text, "Not done")
    for section in ("Results", "All measures", "Cost"):
        shown = section_of(text, section)
        assert "| Vector " not in shown and "| LLM-Pruner-E2" in shown
    assert "Lines of which nothing was measured are left out of the tables" in text
    assert "are left out of the tables" not in markdown(told(results=results))
    some = [fake.change(row, status="missing", metrics=row.metrics | {"ptb_ppl": None}) for row in results.rows[:2]]
    text = markdown(told(results=fake.change(results, rows=[*some, *results.rows[2:]])))
    assert f"{len(results.rows) - 2} of {len(results.rows)} rows done, 2 in part (see" in text
    assert "In part: " in section_of(text, "Not done") and "without PTB" in section_of(text, "Not done")
    broken = [fake.change(row, status="failed") if row.label == "Vector" else row for row in rows]
    assert "| Vector " in section_of(markdown(told(results=fake.change(results, rows=broken))), "Results")


def test_the_lead_says_what_is_measured_and_what_is_missing():
    results = fake.measured(fake.table1("smollm2-135m", structure_ratio=None), 3)
    rows = [
        *results.rows[:-2],
        fake.change(results.rows[-2], status="missing", metrics={}),
        fake.failed("adapruner", "boom"),
    ]
    text = markdown(told(results=fake.change(results, rows=rows)))
    lead = text[: text.index("## What holds")]
    assert "all numbers are of SmolLM2-135M, none is of LLaMA-7B" in lead
    assert "9 of 11 rows done, 1 failed, 1 not run (see “Not done”)" in lead


def test_verdicts_are_grouped_and_say_why():
    text = markdown(told())
    (table,) = tables(told(), "What holds")
    assert [line["Verdict"] for line in table] == [
        "supported", "contradicted", "inconclusive", "not tested",
    ]  # fmt: skip
    supported, contradicted, inconclusive, untested = table
    assert (supported["Here"], supported["Paper"]) == ("−10.3% [−14.0, −6.6], 5 seeds", "−8.1%")
    assert contradicted["Here"].startswith("−1.84 points [−2.60, −1.10]")
    assert inconclusive["Here"] == (
        "96.1% [93.0, 99.2], 5 seeds; the interval holds 96.5%; "
        "such a run finds 4.5% or more beyond it, four times in five"
    )
    assert untested["Here"] == "too few trials: it is about 300"
    assert "Of all 4 that this run is about: **1 supported, 1 contradicted, 1 inconclusive, 1 not tested**." in text
    slugs = {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in re.findall(r"(?m)^#+ (.*)$", text)}
    assert len(links(text)) == 4 and {link[1:] for link in links(text)} <= slugs


def test_what_is_not_tested_stands_in_one_table_with_what_it_would_take():
    more = {"reason": "no measure", "missing": [Missing(name, "no measure") for name in ("PTB", "BoolQ")]}
    untested = fake.four_verdicts()[-1]
    (table,) = tables(told([replace(untested, **more), untested]), "Not tested")
    assert [line["Claim"][:2] for line in table] == ["1.", "2."] and table[0]["Why"] == "not measured: PTB and BoolQ"
    assert table[1]["It would take"] == "LLaMA-7B, 300 trials a search, 5 seeds"


def test_of_many_claims_the_first_screen_has_the_abstracts_and_what_is_decided():
    many = [*fake.four_verdicts(), *[fake.told("inconclusive", reason="few seeds", text=f"No. {i}.") for i in range(9)]]
    (table,) = tables(told(many), "What holds")
    assert len(table) == 2
    text = markdown(told(many))
    assert "Of all 13 that" in text and "all others are under “The claims one by one”" in text
    assert text.count("\n### Claim ") == 12


@pytest.mark.parametrize(
    ("results", "verdicts", "kind"),
    [
        (fake.table1(), (), "perplexity"),
        (fake.change(fake.table1(), spec={"name": "x", "reproduces": {"figure": 3}}), (), "accuracy"),
        (fake.convergence(2, 12), (), "histories"),
        (fake.table1(), fake.four_verdicts(), "claims"),
    ],
)
def test_the_first_figure_is_what_the_report_is_about(results, verdicts, kind, tmp_path):
    made = replace(article(results), verdicts=verdicts)
    made = replace(made, pictures=figures.draw(made.results, tmp_path, made.verdicts))
    assert made.key_picture.kind == kind
    text = markdown(made)
    assert text.count(f"figures/{made.key_picture.name}.png") == 1, "it does not come again"
    assert text.index("![") == text.index(f"![{'The paper’s claims' if kind == 'claims' else ''}")
    assert text.index("![") < text.index("## Results")


def test_the_terminal_ends_with_the_table_and_the_verdicts():
    text = terminal_of(told())
    lines = text.splitlines()
    assert next(line for line in lines if "AdaPruner" in line).endswith("*")
    assert any(line.startswith("contradicted  2. With LoRA, AdaPruner is ahead") for line in lines)
    assert max(map(len, lines)) <= 140 and "\\" not in text and "&" not in text
    assert text.index("WikiText2") < text.index("Of the abstract’s 2 claims: 1 supported, 1 contradicted.")
