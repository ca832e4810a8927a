"""results.json from artifacts that stand in for a run's: what is read from where, and what is summed."""

import json
import statistics
from datetime import UTC, datetime, timedelta

import pytest

from reproducer.queue import Artifact, Outcome
from reproducer.queue.outcome import Result
from reproducer.spec import load_spec
from reproducer.stages.budget import covered
from reproducer.stages.results import collect
from reproducer.stages.rows import expand

SPEC = """\
name: fake
models: [tiny]
methods: [vector, adapruner]
prune: {ratio: [0.20, 0.50]}
calibration: {dataset: python-topics, samples: 4, pool: 20}
search: {trials: 6, windows: 3, sampler: random}
recovery: [none, {name: lora, steps: 5, batch: 8}]
evaluate: {perplexity: [python-topics], windows: 7, tasks: [hellaswag, boolq], limit: 5, generate: ["Once upon"]}
seeds: [0, 1]
"""
ACC, ACC_NORM = [1, 0, 0, 1, 0], [1, 1, 1, 1, 0]
BEGAN = datetime(2030, 1, 1, tzinfo=UTC)


def trial(number, value, **more):
    kept = {"state": "complete", "params": {"alpha1": 0.5}, "baseline": None, "seconds": 2.0}
    return {"number": number, "value": value, **kept, **more}


def files(stage, extra):
    """The JSON files that a stage of each kind leaves."""
    if stage.kind == "search":
        trials = [trial(0, 90.0, baseline="vector"), trial(1, None, state="pruned", partial=120.0), trial(2, 80.0)]
        best = {"baseline": None, "trial": 2, "value": 80.0, "parameters": {"alpha1": 0.5}}
        made = {"trials": trials, "best": best, "candidates": {"magnitude": 500.0}}
        return {**made, "samples": [{"index": 3, "text": "a passage"}], **extra}
    if stage.kind == "zeroshot":
        scores = zip(ACC, ACC_NORM, strict=True)
        items = [
            {"id": i, "acc": a, "acc_norm": None if stage.params["task"] == "boolq" else n}
            for i, (a, n) in enumerate(scores)
        ]
        both = {"acc": 0.4, "acc_norm": None if stage.params["task"] == "boolq" else 0.8}
        metric = "acc" if stage.params["task"] == "boolq" else "acc_norm"
        return {
            "result": {"task": stage.params["task"], "metric": metric, **both, "items": items, "value": both[metric]}
        }
    if stage.kind == "perplexity":
        return {"result": {"value": 50.0, "nll_per_window": [3.0] * 6}}
    if stage.kind == "recovery":
        return {
            "losses": [
                {"step": i + 1, "loss": 2.0 - i / 10, "learning_rate": 1e-4, "examples": 8 * (i + 1)} for i in range(5)
            ]
        }
    if stage.kind == "generation":
        return {"result": {"prompt": stage.params["prompt"], "text": " a time\n\nthere was"}}
    return {}


def facts(stage):
    if stage.kind == "model":
        return {"parameters": 1000}
    return {"parameters": {"left": 800, "total": 1000}} if stage.kind == "prune" else {}


@pytest.fixture
def run(tmp_path):
    """A function: the results of a spec whose every stage has an artifact, seven seconds each, one after another."""

    def make(text=SPEC, extra=None, broken=(), edit=lambda expansion: None):
        path = tmp_path / "spec.yaml"
        path.write_text(text)
        spec = load_spec(path)
        expansion = expand(spec)
        edit(expansion)
        found = {}
        for index, stage in enumerate(expansion.stages):
            if stage.kind in broken:
                found[stage.key] = Result(stage, "failed", "boom")
                continue
            directory = tmp_path / stage.kind / stage.key
            directory.mkdir(parents=True, exist_ok=True)
            for name, value in files(stage, extra or {}).items():
                (directory / f"{name}.json").write_text(json.dumps(value))
            finished = (BEGAN + timedelta(seconds=7 * (index + 1))).isoformat(timespec="seconds")
            record = {"finished": finished, "seconds": 7.0, "peak_memory_bytes": 1, "facts": facts(stage)}
            record |= {"fingerprints": {}, "environment": {"python": "3"}, "key": stage.key}
            found[stage.key] = Result(stage, "done", artifact=Artifact(directory, record))
        return collect(spec, expansion, Outcome(found)), expansion

    return make


def test_both_accuracies_are_kept_with_the_standard_errors_of_their_items(run):
    results, _ = run()
    row = results["rows"][1]
    swag, boolq = row["task_metrics"]["hellaswag"], row["task_metrics"]["boolq"]
    assert (swag["acc"], swag["acc_norm"], swag["items"], swag["shown"]) == (0.4, 0.8, 5, "acc_norm")
    for name, items in (("acc", ACC), ("acc_norm", ACC_NORM)):
        assert swag[f"{name}_stderr"] == pytest.approx(statistics.stdev(items) / 5**0.5)
    assert boolq["acc_norm"] is boolq["acc_norm_stderr"] is None
    assert row["metrics"]["hellaswag_acc"] == 0.8 and row["metrics"]["boolq_acc"] == 0.4
    assert {m["key"]: m["score"] for m in results["metrics"]} == {
        "python_topics_ppl": None, "hellaswag_acc": "acc_norm", "boolq_acc": "acc", "average_acc": None,
    }  # fmt: skip


def test_several_tasks_have_a_column_for_their_average(run):
    results, _ = run()
    assert [m["key"] for m in results["metrics"] if m["kind"] == "accuracy"][-1] == "average_acc"
    assert results["rows"][1]["metrics"]["average_acc"] == pytest.approx((0.8 + 0.4) / 2)
    alone, _ = run(SPEC.replace("[hellaswag, boolq]", "[boolq]"))
    assert "average_acc" not in [metric["key"] for metric in alone["metrics"]]


def test_the_budget_counts_every_stage_once(run):
    results, expansion = run()
    budget = results["budget"]
    assert budget["tasks"][0] == {"label": "HellaSwag", "limit": 5, "items": 5}
    (text,) = budget["texts"]
    assert (text["limit"], text["windows"], text["seq_len"], text["tokens"]) == (7, 6, 128, 6 * 128)
    (lora,) = budget["recovery"]
    assert (lora["limit"], lora["steps"], lora["batch"], lora["examples"]) == (5, 5, 8, 40)
    assert lora["runs"] == 2 * 2 * 2  # ratios, methods, seeds
    (search,) = budget["searches"]
    assert search == {"trials": 6, "windows": 3, "seq_len": 128, "texts": 1, "runs": 2 * 2}
    assert budget["calibration"] == [
        {"dataset": "python-topics", "samples": 4, "length": 128, "limit": 20, "pool": None}
    ]
    assert sum(entry["stages"] for entry in budget["stages"]) == len(expansion.stages)
    assert {"kind": "search", "stages": 4, "done": 4, "seconds": 28.0} in budget["stages"]
    assert budget["seconds"] == budget["wall_seconds"] == 7.0 * len(expansion.stages)


def test_times_that_overlap_count_once():
    assert covered([(0, 4), (3, 5), (10, 11), (10, 10.5)]) == 6
    assert covered([]) == 0


def test_what_has_not_run_is_no_budget_spent(run):
    results, _ = run(broken=("zeroshot", "recovery", "perplexity"))
    budget = results["budget"]
    assert budget["tasks"][0]["items"] is budget["texts"][0]["tokens"] is budget["recovery"][0]["steps"] is None
    assert {entry["kind"]: entry["done"] for entry in budget["stages"]}["recovery"] == 0
    assert results["rows"][1]["task_metrics"] == {} and results["rows"][1]["status"] == "failed"


def test_a_search_tells_its_settings_and_what_older_artifacts_lack_is_none(run):
    results, _ = run()
    search = results["searches"][0]
    assert (search["sampler"], search["data"], search["order"], search["windows"]) == ("random", "search", "joint", 3)
    assert search["importances"] is search["costs"] is None and search["workers"] == 1
    costs = {"trials": 3, "stopped": 1, "seconds": 6.0, "sample_tokens": 1024, "text_tokens": 2048}
    results, _ = run(extra={"importances": {"alpha1": 1.0}, "costs": costs})
    search = results["searches"][0]
    assert search["importances"] == {"alpha1": 1.0} and search["costs"] == costs
    assert len(results["searches"]) == 4 and {s["seed"] for s in results["searches"]} == {0, 1}


def test_a_search_keeps_its_own_cut_where_another_row_takes_its_configuration_over(run):
    def transfer(expansion):
        """The rows at 50 % come first and use what was searched at 20 %."""
        rows = [row for row in expansion.rows if "search" in row.stages]
        at_20 = {(row.seed, row.recovery): row.stages["search"] for row in rows if row.ratio == 0.20}
        for row in rows:
            row.stages["search"] = at_20[row.seed, row.recovery]
        expansion.rows.sort(key=lambda row: -(row.ratio or 0))

    results, _ = run(edit=transfer)
    assert [(search["ratio"], search["model"]) for search in results["searches"]] == [(0.2, "tiny")] * 2
    objectives = {row["ratio"]: row["search_objective"] for row in results["rows"] if row["method"] == "adapruner"}
    assert objectives == {0.2: 80.0, 0.5: None}


def test_a_search_belongs_to_its_own_entry_of_a_model(run):
    results, _ = run(SPEC.replace("[tiny]", "[tiny, {name: tiny, dtype: bfloat16, label: in half}]"))
    assert {(s["model"], s["ratio"], s["seed"]) for s in results["searches"]} == {
        (model, ratio, seed) for model in ("tiny", "in half") for ratio in (0.2, 0.5) for seed in (0, 1)
    }
    assert {row["search_objective"] for row in results["rows"] if row["method"] == "adapruner"} == {80.0}


def test_generations_and_losses_are_carried(run):
    results, _ = run()
    row = next(row for row in results["rows"] if row["recovery"] == "lora")
    assert row["generations"] == [{"prompt": "Once upon", "text": " a time\n\nthere was"}]
    assert [point["examples"] for point in row["training"]] == [8, 16, 24, 32, 40]
    assert results["rows"][0]["training"] is None


def test_what_a_search_varied_is_told_as_it_was(run):
    methods = """
  - {name: adapruner, label: all}
  - {name: adapruner, label: sequential, search: {order: sequential}}
  - {name: adapruner, label: first, search: {space: {taylor: first}}}
  - {name: adapruner, label: data, search: {data: random}}
"""
    results, _ = run(SPEC.replace("[vector, adapruner]", methods))
    told = {choice["topic"].removeprefix("Search: "): choice["text"] for choice in results["choices"]}
    assert "from the whole pool, are searched together with the metric." in told["all"]
    assert "are searched first, the metric after them." in told["sequential"]
    assert told["first"].startswith("The metric is fixed at the first order")
    assert "from the whole pool, are searched." in told["first"], "a fixed metric is not searched"
    assert "only the metric is searched." in told["data"]
