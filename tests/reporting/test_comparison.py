import pytest

from reproducer.paper import load_item
from reproducer.reporting.comparison import compare, standings

from . import fake
from .reading import markdown, section_of, tables


def find(paper, label, recovery="none"):
    return next(row for row in paper.rows if row.label == label and row.recovery == recovery)


def reproducing(results, reproduces, **more):
    return fake.change(results, spec=results.spec | {"reproduces": reproduces}, **more)


def test_nothing_to_compare_with():
    assert compare(fake.quickstart()) is None
    results = reproducing(fake.table1(), {"table": 5})  # it holds no numbers
    assert compare(results) is None
    assert "holds no numbers of the paper’s Table 5" in markdown(results)


def test_same_model_by_structure_ratio():
    results = fake.table1()
    paper = compare(results)
    assert not paper.in_kind
    row = find(paper, "LLM-Pruner-E2", "lora")
    printed = next(r for r in load_item("table1").rows if (r.label, r.recovery) == ("LLM-Pruner-E2", "lora")).metrics
    ours = next(r.metrics for r in results.rows if (r.method, r.recovery) == ("llm-pruner-e2", "lora"))
    dense = results.rows[0].metrics
    cell = row.cells["boolq_acc"]
    assert cell.paper == printed["boolq_acc"]
    assert cell.ours == pytest.approx(100 * ours["boolq_acc"])
    assert cell.difference == pytest.approx(100 * ours["boolq_acc"] - printed["boolq_acc"])
    assert cell.paper_from_dense == pytest.approx(printed["boolq_acc"] - 73.18)
    assert cell.ours_from_dense == pytest.approx(100 * (ours["boolq_acc"] - dense["boolq_acc"]))
    assert cell.difference_from_dense == pytest.approx(cell.ours_from_dense - cell.paper_from_dense)
    assert cell.paper_over_dense is None
    cell = row.cells["ptb_ppl"]
    assert cell.paper_over_dense == pytest.approx(printed["ptb_ppl"] / 22.14)
    assert cell.ours_over_dense == pytest.approx(ours["ptb_ppl"] / dense["ptb_ppl"])
    assert {(r.label, r.recovery_label) for r in paper.only_paper} == {
        ("MoreauPruner", None), ("MoreauPruner", "LoRA"), ("LoRAShear", "LoRA"),
    }  # fmt: skip
    text = section_of(markdown(results), "Comparison with the paper’s Table 1")
    assert "LoRAShear (llama-7b, 20%, w/ LoRA)" in text
    assert "w/ LoRA, LoRAShear, ARC-e: 54.11 is printed, 64.11 would be right. The text claims" in text


def test_another_model_is_compared_in_kind():
    paper = compare(fake.table1("smollm2-135m", structure_ratio=None))
    assert paper.in_kind
    assert paper.models == {"smollm2-135m": "llama-7b"}
    assert len(paper.rows) == 11
    taus = {(order.recovery, order.metric): order.tau for order in paper.orders}
    assert taus["none", "wikitext2_ppl"] == pytest.approx(0.8)  # one of ten pairs is the other way round: E1 and E2


def test_told_models_go_before_their_order():
    results = reproducing(fake.table1("b"), {"figure": 5})
    results = fake.change(results, models=[fake.change(results.models[0], stands_for="vicuna-7b")])
    assert compare(results).models == {"b": "vicuna-7b"}


def test_ablations_are_told_apart_by_their_labels():
    labels = ["AdaPruner", "AdaPruner w/o I1", "w/o D", "something else"]
    rows = [
        fake.row("adapruner", {"average_acc": 0.5}, label=label, recovery="lora", model="llama-7b") for label in labels
    ]
    paper = compare(reproducing(fake.table1(), {"table": 2}, rows=rows))
    assert [row.paper_label for row in paper.rows] == ["AdaPruner", "w/o I1", "w/o D"]
    assert paper.only_ours[0].label == "something else"


def test_failed_rows_keep_the_papers_numbers_beside_them():
    results = fake.table1()
    rows = [*results.rows]
    rows[1] = fake.failed("magnitude", "boom", model="llama-7b", structure_ratio=0.25)
    results = fake.change(results, rows=rows)
    row = find(compare(results), "Magnitude")
    assert row.status == "failed"
    cell = row.cells["ptb_ppl"]
    assert cell.paper == 1022.1 and cell.ours is cell.difference is None
    values = tables(results, "Comparison with the paper’s Table 1")[0]
    assert next(line["PTB↓"] for line in values if line["Method"] == "Magnitude") == "1022.1"
    assert [line["PTB↓"] for line in values if line[""] == "ours"][1] == "failed"


def test_where_the_method_plays_no_part_the_papers_row_stands_beside_every_row_of_its_ratio():
    macs = fake.change(fake.acc("macs", "MACs (G)", None), key="macs_giga", kind="other", higher_is_better=False)
    methods = [("dense", 424.0), ("magnitude", 339.5), ("vector", 338.4)]
    rows = [fake.row(m, {"macs_giga": value}, model="llama-7b", structure_ratio=0.25) for m, value in methods]
    rows.append(fake.row("random", {"macs_giga": 1.0}, label="half", model="llama-7b", ratio=0.5))
    results = reproducing(fake.quickstart(rows=rows, columns=[macs], searches=[]), {"table": 9})
    paper = compare(results)
    assert [row.cells["macs_giga"].paper for row in paper.rows] == [425.12, 340.48, 340.48]
    assert paper.rows[1].cells["macs_giga"].ours_over_dense == pytest.approx(339.5 / 424.0)
    assert paper.rows[1].cells["macs_giga"].paper_over_dense == pytest.approx(340.48 / 425.12)
    assert [row.label for row in paper.only_ours] == ["half"]
    assert "Sizes and times do not depend on which units" in markdown(results)


def test_the_papers_average_is_over_the_tasks_of_the_run():
    left_out = {"piqa_acc", "openbookqa_acc", "boolq_acc"}
    columns = [column for column in fake.TABLE1 if column.key not in left_out]
    results = fake.change(fake.table1(), columns=columns)
    printed = next(r.metrics for r in load_item("table1").rows if r.method == "dense")
    four = ("hellaswag_acc", "winogrande_acc", "arc_easy_acc", "arc_challenge_acc")
    cell = find(compare(results), "llama-7b").cells["average_acc"]
    assert cell.paper == pytest.approx(sum(printed[task] for task in four) / 4)
    results = reproducing(results, {"figure": 3})  # only averages of all seven are known of it
    assert all(row.cells["average_acc"].paper is None for row in compare(results).rows)


def test_mean_perplexities_are_compared_over_the_seeds_that_both_have():
    def rows(method, by_seed, **more):
        return [
            fake.row(method, {"python_topics_ppl": one, "python_docstrings_ppl": two}, seed=seed, **more)
            for seed, (one, two) in by_seed.items()
        ]

    results = fake.quickstart(
        searches=[],
        rows=rows("dense", {0: (1, 1)})
        + rows("vector", {0: (80, 90), 1: (70, 80), 2: (500, 500)})  # 80 over seeds 0 and 1
        + rows("llm-pruner-e2", {0: (100, 100), 1: (20, None)})
        + rows("adapruner", {0: (50, 70), 1: (60, 80)})  # 65
        + rows("adapruner", {0: (81, 99)}, label="w/o D")
        + rows("adapruner", {0: (1, 1)}, recovery="lora"),  # alone in its block
    )
    below, above = standings(results)
    assert (below.value, below.other_value, below.seeds) == (65.0, 80.0, [0, 1])
    assert (above.value, above.other_value, above.seeds) == (90.0, 85.0, [0])
    text = markdown(results)
    assert "AdaPruner, 20%, w/o tune: mean perplexity 65.00 on Python topics and Docstrings" in text
    # differences of −25 and −5: a mean of −15, half an interval of 12.706 standard errors of 10, against 80
    assert "18.8% below the best baseline’s (Vector, 80.00); 95% interval of the difference −178% to +140%" in text
    assert below.interval == pytest.approx((100 * (-15 - 127.06) / 80, 100 * (-15 + 127.06) / 80), rel=1e-4)
    assert "5.9% above the best baseline’s (Vector, 85.00); seed 0: nothing is known of the spread over seeds." in text
    assert above.interval is None
