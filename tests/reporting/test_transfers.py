"""Rows with a configuration that was found elsewhere are marked, and stand beside the best baseline of their model."""

from reproducer.reporting.comparison import stands_for_any
from reproducer.reporting.transfers import transfers
from tests.reporting import fake
from tests.reporting.reading import html, latex, markdown, section_of, tables

SECTION = "Transfers"


def carried(transfer=None, weights="package", seeds=(0, 1, 2)):
    """The table's untuned rows; AdaPruner's configuration is that of a search elsewhere."""
    results = fake.table1("far_model", seeds=seeds, structure_ratio=None)
    rows = [
        fake.change(row, stages=row.stages | {"transfer": "abc"}) if row.method == "adapruner" else row
        for row in results.rows
        if row.recovery == "none"
    ]
    own = {"model": "near", "ratio": None, "structure_ratio": None} if transfer is None else transfer
    methods = [{"name": "vector"}, {"name": "adapruner", "label": None, "search": {"transfer": own}}]
    source = {"kind": weights, "seed": 0} if weights == "random" else results.models[0].source
    models = [
        fake.change(results.models[0], architecture="opt", source=source),
        fake.change(results.models[0], name="near", label="Near"),
    ]
    return fake.change(results, rows=rows, models=models, spec=results.spec | {"methods": methods})


def test_a_transferred_row_says_where_it_was_found_and_how_it_fares():
    results = carried()
    (line,) = tables(results, SECTION)[0]
    assert (line["On"], line["Method"], line["Found on"], line["At"]) == ("far_model (opt)", "AdaPruner", "Near", "20%")
    rows = [row for row in results.rows if row.method == "adapruner"]
    mean = sum((row.metrics["wikitext2_ppl"] + row.metrics["ptb_ppl"]) / 2 for row in rows) / len(rows)
    assert line["Mean ppl↓"] == f"{mean:.2f}" and line["Best baseline"] == "LLM-Pruner-E2"
    assert line["Difference"].startswith("−") and "[" in line["Difference"] and line["Seeds"] == "3"
    assert "AdaPruner (transferred)" in section_of(markdown(results), "Results")


def test_at_another_ratio_of_the_same_model():
    (line,) = tables(carried({"ratio": 0.1}), SECTION)[0]
    assert (line["Found on"], line["At"]) == ("far_model", "10%")


def test_random_weights_are_told():
    results = carried(weights="random")
    assert tables(results, SECTION)[0][0]["On"] == "far_model (opt, random weights)"
    for text in (markdown(results), latex(results), html(results)):
        assert "not whether it is any good there" in text
    assert "random weights:" not in section_of(markdown(carried()), SECTION)


def test_rows_of_a_search_of_their_own_are_none():
    results = fake.table1("far_model")
    assert transfers(results) == [] and section_of(markdown(results), SECTION) == ""


def test_a_model_in_the_place_of_one_that_the_paper_does_not_have_stands_for_none_of_the_papers():
    results = fake.table1("own")
    assert stands_for_any(results) == {"own": "llama-7b"}
    model = fake.change(results.models[0], stands_for="opt-6.7b")
    assert stands_for_any(fake.change(results, models=[model])) == {}
    text = markdown(fake.change(results, models=[model]))
    assert "stands here for opt-6.7b: all numbers are of own" in text
