import pytest

from reproducer.paper.catalogue import load_item
from reproducer.reporting.comparison import compare, stands_for_any
from reproducer.reporting.deviations import deviations

from . import fake
from .reading import markdown, section_of, tables

TABLE1 = "Beside the paper’s Table 1"


def find(paper, label, recovery="none"):
    return next(row for row in paper.rows if row.label == label and row.recovery == recovery)


def reproducing(results, reproduces, **more):
    return fake.change(results, spec=results.spec | {"reproduces": reproduces}, **more)


def test_same_model_by_structure_ratio():
    results = fake.table1()
    paper = compare(results)
    assert not paper.in_kind
    row = find(paper, "LLM-Pruner-E2", "lora")
    printed = next(r for r in load_item("table1").rows if (r.label, r.recovery) == ("LLM-Pruner-E2", "lora")).metrics
    ours = next(r.metrics for r in results.rows if (r.method, r.recovery) == ("llm-pruner-e2", "lora"))
    dense = results.rows[0].metrics
    cell = row.cells["boolq_acc"]
    assert (cell.paper, cell.ours) == (printed["boolq_acc"], pytest.approx(100 * ours["boolq_acc"]))
    assert cell.paper_relative == pytest.approx(printed["boolq_acc"] - 73.18)
    assert cell.ours_relative == pytest.approx(100 * (ours["boolq_acc"] - dense["boolq_acc"]))
    cell = row.cells["ptb_ppl"]
    assert cell.paper_relative == pytest.approx(printed["ptb_ppl"] / 22.14)
    assert cell.ours_relative == pytest.approx(ours["ptb_ppl"] / dense["ptb_ppl"])
    assert {(r.label, r.recovery_label) for r in paper.only_paper} == {
        ("MoreauPruner", None), ("MoreauPruner", "LoRA"), ("LoRAShear", "LoRA"),
    }  # fmt: skip
    text = section_of(markdown(results), "Appendix")
    assert "LoRAShear (llama-7b, 20%, w/ LoRA)" in text
    assert "LoRA, LoRAShear, ARC-e: 54.11 is printed, 64.11 would be right. The text claims" in text
    assert [line["PTB↓"] for line in tables(results, TABLE1)[0]][:2] == ["22.14", "22.80"]


def test_of_another_model_only_what_is_relative_to_its_dense_row_is_shown():
    results = fake.table1("smollm2-135m", structure_ratio=None)
    paper = compare(results)
    assert paper.in_kind and paper.models == {"smollm2-135m": "llama-7b"} and len(paper.rows) == 11
    theirs, ours, *_ = tables(results, TABLE1)[0]
    cell = find(paper, "Magnitude").cells["ptb_ppl"]
    assert (theirs["Method"], theirs["PTB↓"], ours["PTB↓"]) == (
        "Magnitude", f"×{cell.paper_relative:.2f}", f"×{cell.ours_relative:.2f}",
    )  # fmt: skip
    assert theirs["BoolQ↑"].startswith("−") and "relative to each model’s own dense row" in markdown(results)


def test_models_that_are_named_go_before_their_order():
    results = reproducing(fake.table1("b"), {"figure": 5})
    results = fake.change(results, models=[fake.change(results.models[0], stands_for="vicuna-7b")])
    assert compare(results).models == {"b": "vicuna-7b"}
    assert stands_for_any(fake.table1("own")) == {"own": "llama-7b"}
    elsewhere = fake.change(fake.table1("own").models[0], stands_for="opt-6.7b")
    assert stands_for_any(fake.change(fake.table1("own"), models=[elsewhere])) == {}


def test_ablations_are_told_apart_by_their_labels():
    labels = ["AdaPruner", "AdaPruner w/o I1", "w/o D", "something else"]
    rows = [
        fake.row("adapruner", {"average_acc": 0.5}, label=label, recovery="lora", model="llama-7b") for label in labels
    ]
    paper = compare(reproducing(fake.table1(), {"table": 2}, rows=rows))
    assert [row.paper_label for row in paper.rows] == ["AdaPruner", "w/o I1", "w/o D"]


def test_failed_rows_keep_the_papers_numbers_beside_them():
    results = fake.table1()
    rows = [*results.rows]
    rows[1] = fake.failed("magnitude", "boom", model="llama-7b", structure_ratio=0.25)
    results = fake.change(results, rows=rows)
    row = find(compare(results), "Magnitude")
    assert (row.status, row.cells["ptb_ppl"].paper, row.cells["ptb_ppl"].ours) == ("failed", 1022.1, None)
    assert [line["PTB↓"] for line in tables(results, TABLE1)[0]][2:4] == ["1022.1", "–"]


def test_where_the_method_plays_no_part_the_papers_row_stands_beside_every_row_of_its_ratio():
    macs = fake.change(fake.acc("macs", "MACs (G)", None), key="macs_giga", kind="other", higher_is_better=False)
    methods = [("dense", 424.0), ("magnitude", 339.5), ("vector", 338.4)]
    rows = [fake.row(m, {"macs_giga": value}, model="llama-7b", structure_ratio=0.25) for m, value in methods]
    rows.append(fake.row("random", {"macs_giga": 1.0}, label="half", model="llama-7b", ratio=0.5))
    results = reproducing(fake.quickstart(rows=rows, columns=[macs], searches=[]), {"table": 9})
    paper = compare(results)
    assert [row.cells["macs_giga"].paper for row in paper.rows] == [425.12, 340.48, 340.48]
    assert paper.rows[1].cells["macs_giga"].ours_relative == pytest.approx(339.5 / 424.0)
    assert paper.rows[1].cells["macs_giga"].paper_relative == pytest.approx(340.48 / 425.12)
    assert "Sizes and times do not depend on which units" in markdown(results)


def test_averages_over_other_tasks_than_the_papers_seven_are_not_compared():
    results = fake.table1()
    assert "average_acc" in compare(results).rows[0].cells
    fewer = [column for column in results.columns if column.key != "piqa_acc"]
    models = [fake.change(results.models[0], averaged=["boolq_acc", "arc_easy_acc"])]
    for other in (fake.change(results, columns=fewer), fake.change(results, models=models)):
        cells = compare(other).rows[0].cells
        assert "average_acc" not in cells and "boolq_acc" in cells


def test_deviations_have_both_sides_and_leave_out_what_agrees():
    results = fake.measured(fake.table1("smollm2-135m", seeds=(0, 1), structure_ratio=None), 3)
    cut = {"layers": [3, 4, 5], "of": 30, "heads": 0.3, "channels": 0.243}
    rows = [fake.change(row, reached=cut) for row in results.rows]
    searches = [fake.search(8, settings=fake.search().settings | {"mode": "paper", "sampler": "tpe"})]
    results = fake.change(results, rows=rows, searches=searches)
    found = {one.topic: one for one in deviations(results)}
    assert found["Models"].ours == "smollm2-135m for LLaMA-7B, 135 million parameters in float32"
    assert found["Cut"].ours == "20%: 19.9% of all parameters, from layers 3 to 5 of 30"
    assert (
        found["Search"].ours == "8 trials by TPE; perplexity on 16 windows each of python-topics and python-docstrings"
    )
    assert (found["Seeds"].paper, found["Seeds"].ours) == ("not stated", "0, 1")
    assert found["Tasks"].ours.endswith("OBQA, 100 items each") and "Device of the times" not in found
    own = fake.change(results, models=[fake.change(results.models[0], name="llama-7b")], rows=fake.table1().rows)
    assert "Models" not in {one.topic for one in deviations(own)}
    assert deviations(fake.quickstart()) == []
