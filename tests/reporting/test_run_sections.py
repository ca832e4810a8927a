"""The sections on budget, fine-tuning, generations and what the searches found."""

import pytest

from reproducer.reporting import render
from reproducer.reporting.budget import budget_section
from reproducer.reporting.costs import costs_sentence, flops_7b, importances_table
from reproducer.reporting.generations import generations_section, lines_of
from reproducer.reporting.searches import headline, searches_section
from reproducer.reporting.sections import perplexity_verdicts
from reproducer.reporting.training import ends, training_section

from . import fake
from .test_escape import HOSTILE, read
from .test_render import compile_tex


def cells(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_the_budget_tells_limits_and_what_was_spent():
    section = budget_section(fake.budget())
    told = dict(cells(section["limits"]))
    assert told["Zero-shot"].startswith("100 items a task at most: BoolQ 100,")
    assert "WikiText2 64 × 128 tokens = 8,192" in told["Perplexity"]
    assert "5 × 40 steps of 16 = 640 examples seen" in told["Recovery"]
    assert "16 windows × 128 tokens of each of 2 texts" in told["Search"]
    assert told["Calibration"].endswith("from a pool of 2,171 passages")
    *kinds, total = cells(section["times"])
    assert total == ["all", "111", "2 h 34 min"] and len(kinds) == 6
    assert "clock" not in section["sentence"]
    assert "on the clock" in budget_section(fake.budget() | {"wall_seconds": 5000.0})["sentence"]
    rounded = fake.budget()["seconds"] - 100  # 111 stages, their ends known to the second
    assert "clock" not in budget_section(fake.budget() | {"wall_seconds": rounded})["sentence"]
    assert budget_section(None) is None


def test_a_budget_without_limits_says_all():
    found = fake.budget()
    for task in found["tasks"]:
        task["limit"] = None
    found["recovery"] = [found["recovery"][0] | {"limit": None, "steps": None, "examples": None}]
    found["searches"] = []
    found["calibration"][0] |= {"pool": None}
    told = dict(cells(budget_section(found)["limits"]))
    assert told["Zero-shot"].startswith("all items: ")
    assert "not run (2 epochs; alpaca)" in told["Recovery"]
    assert told["Calibration"].endswith("from a pool of all its passages") and "Search" not in told


def test_losses_of_the_ends_are_means():
    rows = fake.measured(fake.table1())["rows"]
    trained = [row for row in rows if row.get("training")]
    table = cells(training_section(rows)["table"])
    assert len(table) == len(trained) == 5
    losses = [point["loss"] for point in trained[0]["training"]]
    assert table[0][-4:] == [f"{sum(losses[:10]) / 10:.3f}", f"{sum(losses[-10:]) / 10:.3f}", "40", "640"]
    assert training_section(fake.quickstart()["rows"]) is None


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (2, 1), (4, 1), (6, 2), (29, 9), (500, 10)])
def test_ends_do_not_meet(steps, count):
    assert ends(steps) == count


def test_generations_keep_their_lines():
    assert lines_of("\n a\n\n\n  b\nc \n\n") == ["a", "", "b", "c"]
    assert lines_of("  \n") == ["(nothing)"]
    results = fake.measured(fake.table1())
    (section,) = generations_section(results)
    assert len(section["texts"]) == len(results["rows"])
    assert section["texts"][0] == {"name": "llama-7b", "lines": ["It is large.", "", "# 1. *All* of it", "and so on"]}
    assert section["paper"] == []


def test_table_10_stands_beside_the_papers_texts(tmp_path):
    results = fake.measured(fake.table1("smollm2-135m", structure_ratio=None))
    results["spec"]["reproduces"] = {"table": 10}
    render(results, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "The paper’s, prompt included" in text and "vacuum, and the cosmic background radiation" in text
    assert "No measure of this run" not in text
    shown, kinds = read(text)
    assert "# 1. *All* of it" in shown and "blockquote_open" in kinds and "hardbreak" in kinds


def test_costs_at_7b_are_two_operations_forward_and_six_with_the_backward_pass():
    costs = fake.COSTS
    assert flops_7b(costs) == (6 * costs["sample_tokens"] + 2 * costs["text_tokens"]) * 6.74e9
    (text,) = costs_sentence({"costs": costs})
    assert "30,720 tokens" in text and "2.567 PFLOP" in text and "25.7 s at 100 TFLOP/s" in text
    assert costs_sentence({}) == costs_sentence({"costs": None}) == []


def test_importances_of_the_samples_are_summed_and_nothing_is_lost():
    table = cells(importances_table({"importances": fake.SHARES}))
    assert [name for name, _ in table] == [
        "sample_0 … sample_9 (sum of 10)", "alpha1", "coarse_second", "fine_second",
    ]  # fmt: skip
    assert sum(float(share.rstrip("%")) for _, share in table) == pytest.approx(100)
    assert importances_table({}).rows == []


def test_many_searches_are_summed_up_first():
    results = fake.convergence()
    found = results["searches"]
    (sentence,) = headline(found)
    assert sentence.startswith("6 searches: ") and "below the best baseline on the search objective in 6" in sentence
    section = searches_section(found)
    assert len(section["summary"].rows) == len(section["details"]) == 6
    table = cells(section["summary"])
    assert table[0][:4] == ["TPE", "smollm2-135m", "20%", "0"]
    best = found[0]["best"]["value"]
    assert table[0][6] == f"−{100 * (1 - best / 177.3):.1f}%"
    assert table[0][8] == "1"
    assert searches_section(found[:1])["summary"] is None
    assert searches_section([]) is None


def test_stopped_trials_and_shared_studies_are_told():
    search = fake.search() | {"workers": 2}
    sentences = " ".join(searches_section([search])["details"][0]["sentences"])
    assert "22 done, 1 failed, 1 stopped" in sentences
    assert "2 processes shared the study" in sentences and "timing" in sentences
    for trial in search["trials"]:
        trial["partial"] = None
    assert "1 failed, 1 void" in " ".join(searches_section([search])["details"][0]["sentences"])
    search["workers"] = 1
    assert "timing" not in " ".join(searches_section([search])["details"][0]["sentences"])


def test_shares_of_trials_below_each_baseline():
    search = fake.search()
    values = [trial["value"] for trial in search["trials"] if trial["value"] is not None]
    table = cells(searches_section([search])["details"][0]["candidates"])
    for label, value in (("LLM-Pruner-E1", 231.0), ("Magnitude", 1795.2)):
        below = sum(v < value for v in values)
        row = next(row for row in table if row[0] == label)
        assert row[3] == f"{below} of {len(values)} ({100 * below / len(values):.0f}%)"


def test_hostile_texts_stay_texts_in_every_section(tmp_path):
    results = fake.measured(fake.table1("smollm2-135m", structure_ratio=None)) | {"searches": []}
    for search in fake.convergence(2, 12)["searches"]:
        search |= {"model": HOSTILE, "label": f"{search['label']} {HOSTILE}", "importances": {HOSTILE: 1.0}}
        results["searches"].append(search)
    for row in results["rows"]:
        row |= {"label": f"{row['method']} {HOSTILE}"}
        row["generations"] = [{"prompt": HOSTILE, "text": f"- {HOSTILE}\n\n    {HOSTILE}\n# a\n1. b\n\\\\[2mm]\n> c"}]
    results["metrics"][2]["label"] = HOSTILE[:12]
    results["budget"]["tasks"][0]["label"] = results["budget"]["recovery"][0]["dataset"] = HOSTILE
    results["budget"]["stages"][0]["kind"] = HOSTILE
    render(results, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    _, kinds = read(text)
    assert not kinds & {"html_inline", "html_block", "link_open", "code_inline", "s_open"}
    quoted = "\n".join(line for line in text.splitlines() if line.startswith(">"))
    shown, kinds = read(quoted)
    assert "> c" in shown and not kinds & {"heading_open", "bullet_list_open", "ordered_list_open", "code_block"}
    log = compile_tex(tmp_path)
    assert "Missing character" not in log


def test_mean_perplexities_are_compared_over_the_seeds_that_both_have():
    def rows(method, by_seed, **more):
        return [
            fake.row(method, {"python_topics_ppl": one, "python_docstrings_ppl": two}, seed=seed, **more)
            for seed, (one, two) in by_seed.items()
        ]

    results = {
        "metrics": fake.metrics(fake.QUICKSTART),
        "rows": rows("dense", {0: (1, 1)})
        + rows("vector", {0: (80, 90), 1: (70, 80), 2: (500, 500)})  # 80 over seeds 0 and 1
        + rows("llm-pruner-e2", {0: (100, 100), 1: (20, None)})
        + rows("adapruner", {0: (50, 70), 1: (60, 80)})  # 65
        + rows("adapruner", {0: (81, 99)}, label="w/o D")
        + rows("adapruner", {0: (1, 1)}, recovery="lora"),  # alone in its block
    }
    below, above = perplexity_verdicts(results)
    assert "AdaPruner, 20%, w/o tune: mean perplexity 65.00 on Python topics and Docstrings" in below
    assert "18.8 % below the best baseline’s (Vector, 80.00); seeds 0, 1." in below
    assert "w/o D" in above and "5.9 % above the best baseline’s (Vector, 85.00); seed 0." in above
