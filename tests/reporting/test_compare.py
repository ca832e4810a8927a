import pytest

from reproducer.reporting.checks import paper_section
from reproducer.reporting.compare import compare, load_item

from . import fake


def find(paper, label, recovery="none"):
    return next(row for row in paper["rows"] if row["label"] == label and row["recovery"] == recovery)


def test_nothing_to_compare_with():
    assert compare(fake.quickstart()) is None
    results = fake.table1()
    results["spec"]["reproduces"] = {"table": 5}  # it holds no numbers
    assert compare(results) is None


def test_same_model_by_structure_ratio():
    results = fake.table1()
    paper = compare(results)
    assert not paper["in_kind"]
    row = find(paper, "LLM-Pruner-E2", "lora")
    printed = next(
        r["metrics"]
        for r in load_item("table1")["rows"]
        if r["label"] == "LLM-Pruner-E2" and r["recovery"] == "lora"
    )  # fmt: skip
    ours = next(r["metrics"] for r in results["rows"] if (r["method"], r["recovery"]) == ("llm-pruner-e2", "lora"))
    dense = results["rows"][0]["metrics"]
    cell = row["cells"]["boolq_acc"]
    assert cell["paper"] == printed["boolq_acc"]
    assert cell["ours"] == pytest.approx(100 * ours["boolq_acc"])
    assert cell["difference"] == pytest.approx(100 * ours["boolq_acc"] - printed["boolq_acc"])
    assert cell["paper_from_dense"] == pytest.approx(printed["boolq_acc"] - 73.18)
    assert cell["ours_from_dense"] == pytest.approx(100 * (ours["boolq_acc"] - dense["boolq_acc"]))
    assert cell["difference_from_dense"] == pytest.approx(cell["ours_from_dense"] - cell["paper_from_dense"])
    cell = row["cells"]["ptb_ppl"]
    assert cell["paper_over_dense"] == pytest.approx(printed["ptb_ppl"] / 22.14)
    assert cell["ours_over_dense"] == pytest.approx(ours["ptb_ppl"] / dense["ptb_ppl"])
    assert {(r["label"], r["recovery"]) for r in paper["only_paper"]} == {
        ("MoreauPruner", "none"),
        ("MoreauPruner", "lora"),
        ("LoRAShear", "lora"),
    }


def test_another_model_is_compared_in_kind():
    paper = compare(fake.table1("smollm2-135m", structure_ratio=None))
    assert paper["in_kind"]
    assert paper["models"] == {"smollm2-135m": "llama-7b"}
    assert len(paper["rows"]) == 11
    taus = {(o["recovery"], o["metric"]): o["tau"] for o in paper["orders"]}
    assert taus["none", "wikitext2_ppl"] == pytest.approx(0.8)  # one of ten pairs is the other way round: E1 and E2


def test_told_models_go_before_their_order():
    results = fake.table1("b") | {"stands_for": {"b": "vicuna-7b"}}
    results["spec"]["reproduces"] = {"figure": 5}
    assert compare(results)["models"] == {"b": "vicuna-7b"}


def test_a_ratio_that_the_paper_does_not_have_finds_no_partner():
    results = fake.table1(structure_ratio=None)
    for row in results["rows"][1:]:
        row["ratio"] = 0.3
    paper = compare(results)
    assert [row["method"] for row in paper["rows"]] == ["dense"]
    assert len(paper["only_ours"]) == 10


def test_ablations_are_told_apart_by_their_labels():
    results = fake.quickstart()
    results["metrics"] = fake.metrics(fake.TABLE1)
    results["spec"]["reproduces"] = {"table": 2}
    labels = ["AdaPruner", "AdaPruner w/o I1", "w/o D", "something else"]
    results["rows"] = [
        fake.row("adapruner", {"average_acc": 0.5}, label=label, recovery="lora", model="llama-7b") for label in labels
    ]
    rows = compare(results)["rows"]
    assert [row["paper_label"] for row in rows] == ["AdaPruner", "w/o I1", "w/o D"]
    assert compare(results)["only_ours"][0]["label"] == "something else"


def test_a_label_of_ones_own_still_finds_the_only_row_of_its_method():
    results = fake.table1()
    for row in results["rows"]:
        if row["method"] == "magnitude":
            row["label"] = "Magnitude, p = 2"
    assert find(compare(results), "Magnitude, p = 2")["paper_label"] == "Magnitude"


def test_failed_rows_keep_the_papers_numbers_beside_them():
    results = fake.table1()
    place = {"model": "llama-7b", "ratio": None, "structure_ratio": 0.25}
    results["rows"][1] = fake.failed("magnitude", results["metrics"], "boom", **place)
    row = find(compare(results), "Magnitude")
    assert row["status"] == "failed"
    assert row["cells"]["ptb_ppl"]["paper"] == 1022.1
    assert row["cells"]["ptb_ppl"]["ours"] is row["cells"]["ptb_ppl"]["difference"] is None


def test_where_the_method_plays_no_part_the_papers_row_stands_beside_every_row_of_its_ratio():
    results = fake.quickstart()
    results["spec"]["reproduces"] = {"table": 9}
    results["metrics"] = fake.metrics([("macs_giga", "MACs (G)", "other", False, "efficiency")])
    methods = [("dense", 424.0), ("magnitude", 339.5), ("vector", 338.4)]
    results["rows"] = [
        fake.row(method, {"macs_giga": macs}, model="llama-7b", structure_ratio=0.25) for method, macs in methods
    ]
    results["rows"].append(fake.row("random", {"macs_giga": 1.0}, label="half", model="llama-7b", ratio=0.5))
    rows = compare(results)["rows"]
    assert [row["cells"]["macs_giga"]["paper"] for row in rows] == [425.12, 340.48, 340.48]
    assert rows[1]["cells"]["macs_giga"]["ours_over_dense"] == pytest.approx(339.5 / 424.0)
    assert rows[1]["cells"]["macs_giga"]["paper_over_dense"] == pytest.approx(340.48 / 425.12)
    assert [row["label"] for row in compare(results)["only_ours"]] == ["half"]


def test_the_papers_average_is_over_the_tasks_of_the_run():
    results = fake.table1()
    left_out = {"piqa_acc", "openbookqa_acc", "boolq_acc"}
    results["metrics"] = [metric for metric in results["metrics"] if metric["key"] not in left_out]
    printed = next(r["metrics"] for r in load_item("table1")["rows"] if r["method"] == "dense")
    four = ("hellaswag_acc", "winogrande_acc", "arc_easy_acc", "arc_challenge_acc")
    cell = find(compare(results), "llama-7b")["cells"]["average_acc"]
    assert cell["paper"] == pytest.approx(sum(printed[task] for task in four) / 4)
    results["spec"]["reproduces"] = {"figure": 3}  # only averages of all seven are known of it
    assert all(row["cells"]["average_acc"]["paper"] is None for row in compare(results)["rows"])


def test_a_model_that_a_profile_put_in_is_compared_with_the_one_it_stands_for():
    results = fake.table1("mine", structure_ratio=None) | {"stands_for": {"mine": "llama-7b"}}
    paper = compare(results)
    assert paper["in_kind"] and paper["models"] == {"mine": "llama-7b"}
    section = paper_section(results | {"paper": paper})
    assert "mine stands for the paper’s llama-7b" in " ".join(section["sentences"])
    captions = [caption for caption, _ in section["tables"]]
    assert ["dense" in captions[0], "order" in captions[1], "different models" in captions[2]] == [True] * 3
    dense, _, values = (table for _, table in section["tables"])
    assert len(dense.rows) == 10 * 3 and len(values.rows) == 11 * 3
    lines = {row[3].text: [cell.text for cell in row] for row in dense.rows[-3:]}
    boolq = dense.headers.index("BoolQ↑")
    ours, theirs, gap = (float(lines[side][boolq].replace("−", "-")) for side in ("ours", "paper", "difference"))
    assert gap == pytest.approx(ours - theirs, abs=0.011)
