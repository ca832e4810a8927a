"""Tables of measures: what stands in bold, the majority class, transferred rows, and what averages leave out."""

import pytest

from . import fake
from .reading import markdown, section_of, tables

RATES = {task: 0.3 for task in fake.TASKS} | {"boolq": 0.62}


def rated(left_out=()):
    """Table 1's results with majority classes, and averages over all tasks but those `left_out`."""
    results = fake.measured(fake.table1(), 20)
    tasks = [fake.change(task, majority=RATES[task.name]) for task in results.tasks]
    averaged = [f"{task}_acc" for task in fake.TASKS if task not in left_out]
    models = [fake.change(model, averaged=averaged) for model in results.models]
    return fake.change(results, tasks=tasks, models=models)


def test_the_majority_class_has_a_row_and_averages_say_what_they_leave_out():
    results = rated(left_out=["boolq"])
    *rows, last = tables(results, "All measures")[0]
    assert len(rows) == 11 and last["Method"] == "Majority class" and last["Ratio"] == "any" and last["Average↑"] == ""
    assert (last["BoolQ↑"], last["PIQA↑"]) == ("62.0", "30.0")
    said = "leaves out BoolQ, where the dense model is not above the majority class."
    assert said in section_of(markdown(results), "Results") and "leaves out" not in markdown(rated())
    assert "Majority class" not in str(tables(fake.measured(fake.table1(), 20), "All measures"))


def test_margins_are_in_no_table():
    results = fake.table1()
    margin = {"key": "boolq_margin", "label": "m", "kind": "other", "unit": "nats", "higher_is_better": True}
    with_margins = fake.change(results, columns=[*results.columns, margin])
    assert markdown(with_margins) == markdown(results)


def test_bold_leaves_out_dense_and_starts_again_in_every_block():
    results = fake.table1(seeds=(0, 1, 2))
    (table,), tasks = tables(results, "Results"), tables(results, "All measures")[0]
    for of, header in ((table, "WikiText2↓"), (table, "Average↑"), (tasks, "BoolQ↑")):
        bold = [line["Method"] for line in of if line[header].startswith("**")]
        assert bold == ["AdaPruner", "AdaPruner"]  # once w/o, once with tuning; never dense, which is better
    assert [line["Tuning"] for line in table] == ["", "w/o tune", "", "", "", "", "w/ LoRA", "", "", "", ""]


def test_what_cannot_be_told_from_the_best_is_marked():
    values = {"vector": (0.5, 0.6, 0.7), "llm-pruner-e1": (0.48, 0.62, 0.69), "llm-pruner-e2": (0.4, 0.5, 0.6)}
    rows = [
        fake.row(method, {"quiz_acc": value}, seed=seed)
        for method, of in values.items()
        for seed, value in enumerate(of)
    ]
    (table,) = tables(fake.quickstart(rows=rows, searches=[]), "Results")
    found = {line["Method"]: line["Quiz↑"] for line in table}
    # Student's t of two degrees is 4.303: half an interval of Vector is 4.303 · 10 / √3
    assert found["Vector"] == "**60 ± 25**" and found["LLM-Pruner-E1"] == "60 ± 27 ≈"
    assert found["LLM-Pruner-E2"] == "50 ± 25", "always 10 points below it, so they are told apart by seed"
    single = [row for row in rows if row.seed == 0]
    assert "**" not in "".join(tables(fake.quickstart(rows=single, searches=[]), "Results")[0][0].values())


def test_failed_missing_and_transferred_rows_read_so():
    rows = [*fake.quickstart().rows]
    rows[2] = fake.change(rows[2], stages=rows[2].stages | {"transfer": "abc"})
    rows[3] = fake.failed("llm-pruner-e1", "boom")
    rows[4] = fake.change(rows[4], status="missing", metrics={})
    rows[5] = fake.change(rows[5], metrics=rows[5].metrics | {"quiz_acc": None})
    (table,) = tables(fake.change(fake.quickstart(), rows=rows), "Results")
    assert [line["Quiz↑"] for line in table][3:] == ["failed", "–"]  # what has not run is left out
    assert table[2]["Method"] == "Vector (transferred)"
    two = [fake.row("vector", {"quiz_acc": 0.5}), fake.failed("vector", "boom", seed=1)]
    assert tables(fake.quickstart(rows=two), "Results")[0][0]["Method"] == "Vector (1 of 2 seeds)"


@pytest.mark.parametrize("stands_for", ["llama-7b", "opt-6.7b"])
def test_a_stand_in_is_named(stands_for):
    results = fake.table1("own")
    model = fake.change(results.models[0], stands_for=stands_for)
    name = {"llama-7b": "LLaMA-7B"}.get(stands_for, stands_for)
    assert f"stands here for {name}: no number is of {name}" in markdown(fake.change(results, models=[model]))
