"""results.json from artifacts that stand in for a run's: what is read from where, and what is summed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reproducer.evaluation.measured import Generation
from reproducer.paper.claims import paper
from reproducer.queue import Artifact, Outcome
from reproducer.queue.outcome import Result
from reproducer.reporting.verdicts import verdicts
from reproducer.search import record
from reproducer.spec import load
from reproducer.stages import results as facts
from reproducer.stages.base import RESULT
from reproducer.stages.collect import collect
from reproducer.stages.document import expand_all
from reproducer.stages.efficiency import Efficiency
from reproducer.stages.perplexity import Perplexity
from reproducer.stages.recovery import Trained
from reproducer.stages.zeroshot import ZeroShot

SPECS = Path(__file__).parents[2] / "specs"
SPEC = """\
name: fake
models: [tiny]
methods: [vector, adapruner]
prune: {ratio: [0.20, 0.50]}
calibration: {dataset: python-topics, samples: 4, pool: 20}
search: {trials: 6, windows: 3, sampler: random}
recovery: [none, {name: lora, steps: 5, batch: 8, warmup_steps: 1}]
evaluate: {perplexity: [python-topics], windows: 7, tasks: [hellaswag, boolq], limit: 5, generate: ["Once upon"]}
seeds: [0, 1]
"""
SIZES = ["params_billion", "macs_giga", "memory_mib", "latency_seconds", "tokens_per_second", "weights_mib"]
BOTH = {"acc": [1, 0, 0, 1, 0], "acc_norm": [1, 1, 1, 1, 0], "margin": [0.5, 0.25, -1.5, 2.0, -0.75]}
ENVIRONMENT = {"python": "3", "platform": "Linux", "cpu": "some", "cpu_count": 2, "packages": {"torch": "2"}}
BEGAN = datetime(2030, 1, 1, tzinfo=UTC)
STEP = 7.0  # seconds that every stage took
TRIAL = {"params": {"alpha1": 0.5}, "seconds": 2.0, "phase": "joint", "worker": 0, "partial": None, "baseline": None}
COSTS = {"trials": 3, "stopped": 1, "seconds": 6.0, "sample_tokens": 1024, "text_tokens": 2048,
         "forward_tokens": 3000, "backward_tokens": 900}  # fmt: skip


def search_record(stage):
    trials = [
        {**TRIAL, "number": 0, "value": 90.0, "state": "complete", "baseline": "vector"},
        {**TRIAL, "number": 1, "value": None, "state": "stopped", "partial": 120.0},
        {**TRIAL, "number": 2, "value": 80.0, "state": "complete"},
    ]
    best = {"number": 2, "value": 80.0, "method": stage.method, "params": {"alpha1": 0.5}, "baseline": None}
    return record.Record(
        space={"alpha1": {"low": 0.0, "high": 1.0}},
        workers=1,
        trials=trials,
        baselines=[
            {"method": "magnitude", "label": "Magnitude", "value": 500.0},
            {"method": "vector", "label": "Vector", "value": 90.0},
        ],
        best={**best, "samples": [{"index": 3, "text": "a passage"}]},
        importances={"alpha1": 1.0},
        costs=COSTS,
    )


def task_result(stage, **majorities):
    names = ["acc", "margin"] if stage.task.name == "boolq" else ["acc_norm", "acc", "margin"]
    return ZeroShot.Result(
        shown=names[0],
        scores={name: sum(BOTH[name]) / 5 for name in names},
        stderr=dict.fromkeys(names, 0.25),
        higher_is_better=dict.fromkeys(names, True),
        items=[{"id": index, "scores": {name: BOTH[name][index] for name in names}} for index in range(5)],
        majority=majorities.get(stage.task.name),
    )


def losses():
    return [{"step": i + 1, "loss": 2.0 - i / 10, "learning_rate": 1e-4, "examples": 8 * (i + 1)} for i in range(5)]


LEFT = {
    "search": (record.FILE, search_record),
    "zeroshot": (RESULT, task_result),
    "perplexity": (RESULT, lambda _: Perplexity.Result(value=50.0, nll_per_window=[3.0] * 6, tokens=6 * 127)),
    "recovery": (RESULT, lambda _: Trained(losses=losses())),
    "efficiency": (
        RESULT,
        lambda _: Efficiency.Result(**dict.fromkeys(SIZES, 2.0), quartiles=(1.0, 2.0), seconds=[2.0]),
    ),
    "generation": (RESULT, lambda stage: Generation(prompt=stage.prompt, text=" a time\n\nthere was")),
}


def recorded(stage):
    """What a stage of each kind says in its record."""
    if stage.kind in ("model", "derived"):
        return {"parameters": 1000}
    if stage.kind.startswith("prune"):
        return {"parameters": {"left": 800, "total": 1000}, "pool": 18}
    return {"pool": 18} if stage.kind == "search" else {}


@pytest.fixture
def run(tmp_path):
    """A function: the results of a spec whose every stage has an artifact, seven seconds each, one after another.

    The spec is `text`, or the file `path` under a profile. Stages of kinds in `broken` have failed, those in `absent`
    have not run, those in `elsewhere` ran on another Python.
    """

    def make(text=SPEC, broken=(), absent=(), elsewhere=(), path=None, profile=()):
        if path is None:
            path = tmp_path / "spec.yaml"
            path.write_text(text)
        expansion = expand_all(load(path, profile))
        found = {}
        for index, stage in enumerate(expansion.stages):
            if stage.kind in broken:
                found[stage.key] = Result(stage, "failed", "boom")
                continue
            if stage.kind in absent:
                found[stage.key] = Result(stage, "missing")
                continue
            directory = tmp_path / stage.kind / stage.key
            directory.mkdir(parents=True, exist_ok=True)
            if stage.kind in LEFT:
                name, result = LEFT[stage.kind]
                (directory / name).write_text(result(stage).model_dump_json())
            made = {
                "key": stage.key,
                "finished": (BEGAN + timedelta(seconds=STEP * (index + 1))).isoformat(timespec="seconds"),
                "seconds": STEP,
                "peak_memory_bytes": index,
                "facts": recorded(stage),
                "fingerprints": {"the text": "c0ffee"} if stage.kind == "perplexity" else {},
                "environment": ENVIRONMENT | ({"python": "2"} if stage.kind in elsewhere else {}),
            }
            found[stage.key] = Result(stage, "done", artifact=Artifact(directory, made))
        results = collect(expansion, Outcome(found))
        assert facts.Results.model_validate_json(results.to_json()) == results
        return results, expansion

    return make


def test_all_scores_of_a_task_are_kept_and_the_shown_one_is_the_columns(run):
    results, _ = run()
    row = results.rows[1]
    swag, boolq = row.task_scores["hellaswag"], row.task_scores["boolq"]
    assert swag.scores == {"acc_norm": 0.8, "acc": 0.4, "margin": 0.1} and swag.shown == "acc_norm"
    assert set(swag.stderr.values()) == {0.25} and len(swag.items) == 5
    assert boolq.scores == {"acc": 0.4, "margin": 0.1} and len(boolq.items) == 5
    assert row.metrics["hellaswag_acc"] == 0.8 and row.metrics["boolq_acc"] == 0.4
    assert row.metrics["hellaswag_margin"] == row.metrics["boolq_margin"] == 0.1
    assert boolq.items[2].scores == {"acc": 0, "margin": -1.5}
    assert [(column.key, column.score, column.source, column.unit) for column in results.columns] == [
        ("python_topics_ppl", None, "python-topics", None),
        ("hellaswag_acc", "acc_norm", "hellaswag", None),
        ("boolq_acc", "acc", "boolq", None),
        ("average_acc", None, None, None),
        ("hellaswag_margin", "margin", "hellaswag", "nats/character"),
        ("boolq_margin", "margin", "boolq", "nats"),
    ]
    margin = results.columns[-1]
    assert (margin.label, margin.kind, margin.higher_is_better) == ("BoolQ margin", "other", True)


def test_several_tasks_have_a_column_for_their_average(run):
    results, _ = run()
    assert [column.key for column in results.columns if column.kind == "accuracy"][-1] == "average_acc"
    assert results.rows[1].metrics["average_acc"] == pytest.approx((0.8 + 0.4) / 2)
    alone, _ = run(SPEC.replace("[hellaswag, boolq]", "[boolq]"))
    assert "average_acc" not in [column.key for column in alone.columns]
    unfinished, _ = run(broken=("zeroshot",))
    assert unfinished.rows[1].metrics["average_acc"] is None
    none, _ = run(SPEC.replace("tasks: [hellaswag, boolq], ", ""))
    assert "average_acc" not in none.rows[1].metrics and none.models[0].averaged == []


@pytest.fixture
def majorities(monkeypatch):
    """A function: the majority classes' rates of tasks are these."""

    def use(of=task_result, **rates):
        monkeypatch.setitem(LEFT, "zeroshot", (RESULT, lambda stage: of(stage, **rates)))

    return use


THREE = SPEC.replace("[hellaswag, boolq]", "[hellaswag, boolq, piqa]")


def test_averages_leave_out_tasks_in_which_the_dense_model_does_not_beat_the_majority_class(run, majorities):
    def result(stage, **rates):  # a pruned model's accuracy says nothing about the task
        made = task_result(stage, **rates)
        return made if not stage.edits else made.model_copy(update={"scores": dict.fromkeys(made.scores, 0.9)})

    majorities(result, hellaswag=0.2, boolq=0.4, piqa=0.6)  # dense: 0.8, 0.4, 0.8
    results, _ = run(THREE)
    assert results.models[0].averaged == ["hellaswag_acc", "piqa_acc"]
    assert {task.name: task.majority for task in results.tasks} == {"hellaswag": 0.2, "boolq": 0.4, "piqa": 0.6}
    assert results.rows[0].metrics["average_acc"] == pytest.approx(0.8)
    assert results.rows[1].metrics["average_acc"] == pytest.approx(0.9)
    majorities(hellaswag=0.2, boolq=0.39, piqa=0.6)
    assert run(THREE)[0].rows[1].metrics["average_acc"] == pytest.approx((0.8 + 0.4 + 0.8) / 3)
    majorities(hellaswag=0.2, boolq=0.5, piqa=0.8)
    results, _ = run(THREE)
    assert results.models[0].averaged == ["hellaswag_acc"]
    assert {row.metrics["average_acc"] for row in results.rows} == {None}


def test_the_papers_document_is_collected_and_every_claim_judged(run, monkeypatch):
    def passed(stage):  # by another number each: of equal ones nothing can be told
        value = 50.0 + int(stage.key[:4], 16) / 1000
        return Perplexity.Result(value=value, nll_per_window=[3.0 + value / 100] * 6, tokens=6 * 127)

    monkeypatch.setitem(LEFT, "perplexity", (RESULT, passed))
    results, _ = run(path=SPECS / "paper.yaml", profile=("small",))
    assert {row.status for row in results.rows} == {"done"}
    untested = {one.claim.id: one.reason for one in verdicts(results, paper()) if one.outcome == "not tested"}
    assert untested == {
        **dict.fromkeys(("tpe-sooner", "tpe-better"), "few trials"),
        **{claim.id: "untestable" for claim in paper().claims if claim.rule == "none"},
    }


def test_a_row_of_a_document_that_measures_fewer_tasks_has_no_average(run, tmp_path):
    """An average over other tasks could be held against no other row's."""
    (tmp_path / "table.yaml").write_text(SPEC)
    fewer = SPEC.replace("[vector, adapruner]", "[magnitude]").replace("[hellaswag, boolq]", "[boolq]")
    (tmp_path / "controls.yaml").write_text(fewer)
    results, _ = run("name: both\ninclude: [table.yaml, controls.yaml]")
    averages = {row.label: row.metrics["average_acc"] for row in results.rows}
    assert averages["Vector"] == averages["Tiny"] == pytest.approx(0.6) and averages["Magnitude"] is None


def test_what_was_used_is_counted_once(run):
    results, expansion = run()
    assert results.tasks[0].model_dump() == {
        "name": "hellaswag", "label": "HellaSwag", "limit": 5, "metric": "acc_norm", "items": 5,
        "majority": None,
    }  # fmt: skip
    (text,) = results.texts
    assert (text.limit, text.windows, text.seq_len) == (7, 6, 128)
    (lora,) = results.recoveries
    assert (lora.settings["steps"], lora.settings["batch"], lora.steps, lora.examples) == (5, 8, 5, 40)
    assert lora.runs == 2 * 2 * 2  # ratios, methods, seeds
    (calibration,) = results.calibration
    assert calibration.model_dump() == {
        "dataset": "python-topics", "split": "calibration", "shares": [], "samples": 4, "length": 128, "limit": 20,
        "pool": 18,
    }  # fmt: skip
    assert sum(entry.stages for entry in results.stages) == len(expansion.stages)
    assert facts.StageUse(kind="search", stages=4, done=4, seconds=4 * STEP) in results.stages
    assert results.seconds == results.wall_seconds == STEP * len(expansion.stages)
    assert results.sources == [facts.Source(name="the text", digest="c0ffee")]


def test_what_has_not_run_used_nothing(run):
    results, _ = run(broken=("zeroshot", "recovery", "perplexity"))
    assert results.tasks[0].items is results.texts[0].windows is results.recoveries[0].steps is None
    assert {entry.kind: entry.done for entry in results.stages}["recovery"] == 0
    assert results.rows[1].task_scores == {} and results.rows[1].status == "failed"
    assert results.rows[1].metrics == dict.fromkeys(column.key for column in results.columns)
    assert results.sources == []


def test_a_row_is_missing_until_something_has_failed(run):
    results, _ = run(absent=("recovery", "perplexity"))
    assert {row.status for row in results.rows} == {"missing"}
    results, _ = run(absent=("perplexity",), broken=("recovery",))
    assert {row.recovery: row.status for row in results.rows} == {"none": "missing", "lora": "failed"}
    failed = next(row for row in results.rows if row.recovery == "lora")
    assert failed.error and failed.error.endswith(": boom")


def test_a_row_has_its_own_stages_costs_and_what_its_plan_left(run):
    results, expansion = run()
    for row, expanded in zip(results.rows, expansion.rows, strict=True):
        own = [role for role in expanded.stages if role != "model"]
        assert row.seconds == STEP * len(own)
        order = [stage.key for stage in expansion.stages]
        assert row.peak_memory_bytes == max(order.index(row.stages[role]) for role in own)
        assert (row.params, row.params_removed) == ((1000, 0.0) if row.method == "dense" else (800, 0.2))
    assert results.rows[0].stages.keys() == {"model", "python_topics_ppl", "hellaswag_acc", "boolq_acc", "generation_0"}
    searched = next(row for row in results.rows if row.method == "adapruner" and row.recovery == "lora")
    assert {"search", "plan", "recovery"} < searched.stages.keys()
    assert [point.examples for point in searched.training] == [8, 16, 24, 32, 40] and results.rows[0].training is None


def test_the_objective_of_a_method_is_what_a_search_of_its_cut_and_seed_saw(run):
    results, _ = run()
    assert {row.search_objective for row in results.rows if row.method == "adapruner"} == {80.0}
    assert {row.search_objective for row in results.rows if row.method == "vector"} == {90.0}
    assert results.rows[0].search_objective is None


def test_a_search_tells_its_settings_and_what_it_found(run):
    results, _ = run()
    search = results.searches[0]
    assert (search.method, search.label, search.model, search.texts) == (
        "adapruner",
        "AdaPruner",
        "tiny",
        ["python-topics"],
    )
    told = {"sampler": "random", "data": "search", "order": "joint", "windows": 3, "trials": 6, "samples": 4}
    assert told.items() <= search.settings.items()
    assert search.importances == {"alpha1": 1.0} and search.costs.model_dump() == COSTS and search.seconds == STEP
    assert [trial.state for trial in search.trials] == ["complete", "stopped", "complete"]
    assert search.best.samples == [record.Sample(index=3, text="a passage")]
    assert {(search.ratio, search.seed) for search in results.searches} == {
        (ratio, seed) for ratio in (0.2, 0.5) for seed in (0, 1)
    }


def test_a_search_keeps_its_own_cut_where_another_row_takes_its_configuration_over(run):
    """The row at 50 % comes first and uses what is searched at 20 %."""
    methods = """
  - {name: adapruner, label: taken over, search: {transfer: {ratio: 0.20}}}
  - {name: adapruner, label: own, prune: {ratio: 0.20}}
"""
    text = SPEC.replace("[vector, adapruner]", methods).replace("[0.20, 0.50]", "0.50").replace("[0, 1]", "[0]")
    results, _ = run(text)
    assert [(search.ratio, search.model, search.label) for search in results.searches] == [(0.2, "tiny", "own")]
    assert {row.label: row.search_objective for row in results.rows[1:]} == {"taken over": None, "own": 80.0}


def test_the_environment_is_the_newest_artifacts_and_others_are_counted(run):
    results, _ = run()
    assert (results.environment.python, results.environment.others) == ("3", 0)
    results, _ = run(elsewhere=("search",))
    assert (results.environment.python, results.environment.others) == ("3", 4)
    assert results.environment.packages == {"torch": "2"}


def test_the_spec_in_results_is_the_one_that_ran(run, tmp_path):
    """With its defaults written out it expands to the same stages: results.json is enough to run it again."""
    results, expansion = run()
    again = tmp_path / "again.yaml"
    known = {name: value for name, value in results.spec.items() if name not in ("profile", "stands_for")}
    again.write_text(json.dumps(known))
    assert [stage.key for stage in expand_all(load(again)).stages] == [stage.key for stage in expansion.stages]
