"""The study on an objective that costs nothing: resumption, baselines, samplers, orders, stopping, damage."""

from __future__ import annotations

import json
import math

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from pydantic import ValidationError
from search_objective import DRAW, MIXTURES, Objective, run

from reproducer.errors import UserError
from reproducer.methods.adapruner import AdaPrunerSpace
from reproducer.pruning.cut import Cut
from reproducer.pruning.plan import Plan
from reproducer.search import objective as real
from reproducer.search.journal import fail_unfinished, open_study
from reproducer.search.record import Record
from reproducer.search.settings import SearchSettings
from tests.helpers import tiny, tokens


def finished(directory, *states):
    trials = [trial.model_dump() for trial in Record.read(directory).trials]
    return [trial for trial in trials if trial["state"] in (states or ("complete", "stopped", "void"))]


def without_times(trials):
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in trials]


def journal_in(directory):
    return JournalStorage(JournalFileBackend(str(directory / "study.journal")))


def plain(directory):
    """The study as Optuna alone opens it."""
    return optuna.load_study(study_name="joint", storage=journal_in(directory))


def outside(directory):
    """Objectives of the baselines outside of the space."""
    return {score["method"]: score["value"] for score in json.loads((directory / "baselines.json").read_text())}


RESOLVED = {"stop": None, "offered": None}
WAYS = [
    {"sampler": "local", **RESOLVED},
    {"sampler": "tpe", **RESOLVED},
    {"sampler": "tpe", "mode": "paper", **RESOLVED},
    {"sampler": "random", **RESOLVED},
    {"order": "sequential", "stop": True},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_a_search_interrupted_twice_makes_the_trials_of_an_unbroken_one(tmp_path, way):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    least = run(Objective(), whole, **way)
    trials = way.get("trials", 14)
    for dies_at in (3, trials // 2):
        with pytest.raises(KeyboardInterrupt):
            run(Objective(dies_at=dies_at), broken, **way)
    spent = run(Objective(), broken, **way)
    assert (spent.best, spent.baselines) == (least.best, least.baselines)
    assert without_times(finished(broken)) == without_times(finished(whole))
    assert len(finished(whole)) == trials
    assert (broken / "plan.safetensors").read_text() == (whole / "plan.safetensors").read_text()
    failed = len(finished(broken, "failed"))
    assert failed == 2 or (failed == 1 and len(outside(broken)) > 1)  # the first died with a baseline
    spent, least = spent.costs, least.costs
    assert (spent.trials, spent.stopped) == (least.trials, least.stopped) and spent.seconds > 0
    prepared = 20 if way.get("sampler") == "local" else 0  # all passages, once, however often the search begins anew
    assert least.sample_tokens == prepared + 3 * (trials + len(outside(whole)))
    assert spent.sample_tokens == least.sample_tokens + 3 * (2 - failed)  # trials that died are not counted


def test_the_first_trials_are_the_baselines_that_lie_in_the_space(tmp_path):
    run(Objective(), tmp_path, stop=True)
    first = finished(tmp_path)[:3]
    assert [trial["baseline"] for trial in first] == ["vector", "llm-pruner-e1", "llm-pruner-e2"]
    assert all(trial["state"] == "complete" for trial in first)
    assert all(tuple(trial["params"][f"sample_{place}"] for place in range(3)) == DRAW for trial in first)
    assert [trial["params"]["alpha1"] for trial in first] == [1.0, 0.0, 0.0]
    assert [trial["params"]["fine_second"] for trial in first][1:] == [0.0, "only"]
    assert all(trial["baseline"] is None for trial in finished(tmp_path)[3:])


def test_what_a_search_leaves(tmp_path):
    record = run(Objective(), tmp_path, trials=30, stop=True)
    assert Record.read(tmp_path) == record
    best = record.best
    trial = next(trial for trial in record.trials if trial.number == best.number)
    assert (best.value, best.baseline) == (trial.value, trial.baseline)
    assert [sample.index for sample in best.samples] == [trial.params[f"sample_{place}"] for place in range(3)]
    assert all(sample.text == f"passage {sample.index}" for sample in best.samples)
    metric = {name: value for name, value in trial.params.items() if not name.startswith("sample_")}
    assert (best.method, best.params) == ("adapruner", metric)
    assert json.loads((tmp_path / "plan.safetensors").read_text()) == [
        "adapruner", [sample.index for sample in best.samples], best.params,
    ]  # fmt: skip
    assert record.space["alpha1"] == {"low": 0.0, "high": 1.0} and record.space["coarse_scale"] == [1e-2, 1e-3]
    values = {trial.baseline: trial.value for trial in record.trials if trial.baseline}
    scored = {(one.method, one.label, one.value or one.partial) for one in record.baselines}
    assert scored == {
        ("magnitude", "Magnitude", 1e6 - 0.5),  # given up behind the first window
        ("vector", "Vector", values["vector"]),
        ("llm-pruner-e1", "LLM-Pruner-E1", values["llm-pruner-e1"]),
        ("llm-pruner-e2", "LLM-Pruner-E2", values["llm-pruner-e2"]),
    }


def test_a_baseline_beside_the_space_that_is_better_is_what_the_search_returns(tmp_path):
    best = run(Objective(magnitude=1.5), tmp_path).best
    assert (best.method, best.baseline, best.value, best.number) == ("magnitude", "magnitude", 1.5, None)
    assert (best.params, [sample.index for sample in best.samples]) == ({}, list(DRAW))
    assert json.loads((tmp_path / "plan.safetensors").read_text())[0] == "magnitude"
    assert outside(tmp_path) == {"magnitude": 1.5}


def test_where_candidates_race_a_baseline_beside_the_space_does_too(tmp_path):
    for name, keys in {"race": {"stop": True}, "whole": {}}.items():
        (tmp_path / name).mkdir()
        found = {one.method: one for one in run(Objective(), tmp_path / name, **keys).baselines}["magnitude"]
        assert (found.value, found.partial) == ((None, 1e6 - 0.5) if keys else (1e6, None))
    best = min(one.value for one in run(Objective(), tmp_path / "whole").baselines)
    (tmp_path / "near").mkdir()
    near = run(Objective(magnitude=best + 1), tmp_path / "near", stop=True).baselines  # by less than what is hopeless
    assert next(one.value for one in near if one.method == "magnitude") == best + 1


def test_the_papers_search_returns_none_of_the_baselines_that_are_scored_beside_it(tmp_path):
    space = AdaPrunerSpace.model_validate(AdaPrunerSpace.published())
    assert space.points() == {} and space.dimensions()["fine_second"].values == (1e5, 1e6, 1e7)
    record = run(Objective(magnitude=-1e9), tmp_path, mode="paper", sampler=None, stop=None)
    assert record.best.method == "adapruner" and record.best.value > -1e9
    assert next(one.value for one in record.baselines if one.method == "magnitude") == -1e9


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_baseline_beside_the_space_without_a_finite_objective_is_kept_as_that(tmp_path, value):
    record = run(Objective(magnitude=value), tmp_path)
    assert outside(tmp_path) == {"magnitude": None}
    assert record.best.method == "adapruner" and math.isfinite(record.best.value)
    assert run(Objective(magnitude=1.5), tmp_path) == record, "it is not measured again"


@pytest.mark.parametrize(
    "part", [{"space": AdaPrunerSpace(taylor="first")}, {"data": "ten-spaces"}, {"data": "random"}]
)
def test_an_ablation_returns_what_its_own_space_holds(tmp_path, part):
    best = run(Objective(magnitude=1.5), tmp_path, **part).best
    assert outside(tmp_path)["magnitude"] == 1.5
    assert best.method == "adapruner" and best.value > 1.5
    assert best.value == min(trial["value"] for trial in finished(tmp_path))


@pytest.mark.parametrize("trials", [1, 4, 14])
def test_the_result_is_the_least_of_all_trials_and_baselines(tmp_path, trials):
    best = run(Objective(), tmp_path, trials=trials, seed=1).best
    values = [trial["value"] for trial in finished(tmp_path)]
    assert len(values) == max(trials, 3)  # the baselines are always scored
    assert len(outside(tmp_path)) == 1
    assert best.value == min([*values, *outside(tmp_path).values()])


def test_more_samples_than_passages_are_refused(tmp_path):
    with pytest.raises(UserError, match="pool has 2"):
        run(Objective(pool=torch.arange(2)[:, None]), tmp_path)


def test_an_objective_that_is_not_finite_loses_and_does_not_stop_the_search(tmp_path):
    class Sometimes(Objective):
        def bowl(self, method, samples, settings):
            value = super().bowl(method, samples, settings)
            return math.nan if self.evaluated % 3 == 0 else value

    record = run(Sometimes(), tmp_path)
    assert math.isfinite(record.best.value)
    assert all(math.isfinite(trial["value"]) for trial in finished(tmp_path, "complete"))
    assert len(finished(tmp_path, "void")) > 2 and record.costs.stopped == 0
    assert all(trial["value"] is trial["partial"] is None for trial in finished(tmp_path, "void"))


def test_a_point_that_means_nothing_is_void_and_costs_nothing(tmp_path):
    class Half(AdaPrunerSpace):
        def void(self, parameters):
            return parameters["alpha1"] > 0.5

    objective = Objective()
    record = run(objective, tmp_path, space=Half(fine_second=MIXTURES), sampler="random")
    void = [trial for trial in record.trials if trial.params["alpha1"] > 0.5]
    assert void and all(trial.state == "void" for trial in void)
    assert objective.evaluated == 14 + 1 - len(void)


def test_a_search_that_finds_nothing_finite_says_so(tmp_path):
    class Never(Objective):
        def bowl(self, method, samples, settings):
            return math.inf

    for order in ("joint", "sequential"):
        with pytest.raises(UserError, match="finite"):
            run(Never(), tmp_path, baselines=[], trials=3, order=order)


# Hopeless trials.


def test_a_stopped_trial_counts_has_no_value_and_tells_the_sampler_its_partial_one(tmp_path):
    objective = Objective()
    record = run(objective, tmp_path, stop=True, trials=30)
    stopped = finished(tmp_path, "stopped")
    assert len(stopped) == objective.stopped - 1 > 3  # a baseline beside the space was, too
    assert len(finished(tmp_path)) == 30
    assert all(trial["value"] is None and trial["baseline"] is None for trial in stopped)
    assert all(trial["partial"] > record.best.value for trial in stopped)
    assert all(trial["partial"] is None for trial in finished(tmp_path, "complete"))
    pruned = plain(tmp_path).get_trials(states=(optuna.trial.TrialState.PRUNED,))
    assert [t.intermediate_values for t in pruned] == [{1: trial["partial"]} for trial in stopped]
    costs = record.costs
    assert (costs.trials, costs.stopped) == (30, len(stopped))
    assert costs.text_tokens == objective.text_tokens == 2 * (30 + 1) - objective.stopped
    assert costs.sample_tokens == objective.sample_tokens
    assert costs.forward_tokens == 2 * costs.sample_tokens and costs.backward_tokens == round(costs.sample_tokens / 2)


def test_a_mode_decides_what_is_left_out():
    default, paper = SearchSettings(trials=60), SearchSettings(trials=60, mode="paper")
    assert (default.sampler, default.stop, default.start, default.offered) == ("local", True, 10, 32)
    assert (paper.sampler, paper.stop, paper.start, paper.offered) == ("tpe", False, 0, 0)
    assert SearchSettings(trials=20).start == 5 and SearchSettings(trials=60, start=0).start == 0
    assert SearchSettings(**default.model_dump()) == default
    with pytest.raises(ValidationError, match="local"):
        SearchSettings(trials=60, mode="paper", start=5)
    for transfer in ({}, {"ratio": 0.2, "structure_ratio": 0.2}, {"ratio": 20}):
        with pytest.raises(ValidationError):
            SearchSettings(transfer=transfer)


# One after the other.


def test_samples_first_and_then_the_parameters(tmp_path):
    record = run(Objective(), tmp_path, order="sequential", sampler="tpe", trials=21)
    trials = finished(tmp_path)
    data, metric = trials[:10], trials[10:]
    assert [trial["number"] for trial in trials] == list(range(21))
    assert {trial["phase"] for trial in data} == {"samples"} and {trial["phase"] for trial in metric} == {"parameters"}
    names = ("alpha1", "alpha2", "fine_second")
    assert {tuple(trial["params"][name] for name in names) for trial in data} == {(0.0, 1.0, "only")}
    best = min(data, key=lambda trial: trial["value"])
    samples = [f"sample_{place}" for place in range(3)]
    assert all(trial["params"][name] == best["params"][name] for trial in metric for name in samples)
    assert len({tuple(trial["params"][name] for name in samples) for trial in data}) == 10
    assert len({trial["params"]["alpha1"] for trial in metric}) == 11
    assert all(trial["params"].keys() == trials[0]["params"].keys() for trial in trials)
    assert data[0]["baseline"] == "llm-pruner-e2"  # the one with the fixed metric; the others stand beside
    assert outside(tmp_path).keys() == {"magnitude", "vector", "llm-pruner-e1"}
    assert record.best.value == min(trial["value"] for trial in trials)


# The storage.


DAMAGES = {
    "of something else": lambda content: b"garbage" * 1000,
    "of something else, with lines": lambda content: b"garbage\n" * 1000,
    "a byte in the middle": lambda content: content[:5000] + b"\n" + content[5000:],
    "zeros at the end": lambda content: content + bytes(100),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_study_is_reported_and_left_as_it_is(tmp_path, damage):
    run(Objective(), tmp_path, trials=10)
    journal = tmp_path / "study.journal"
    damaged = DAMAGES[damage](journal.read_bytes())
    journal.write_bytes(damaged)
    with pytest.raises(UserError, match=r"study\.journal cannot be read"):
        run(Objective(), tmp_path, trials=12)
    assert journal.read_bytes() == damaged


def test_a_line_that_a_full_disk_cut_off_is_as_if_it_had_never_been(tmp_path):
    run(Objective(), tmp_path, trials=10)
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    ends = {}
    for name, content in {
        "whole": whole[:-last],
        "first byte": whole[: 1 - last],
        "all but its end": whole[:-1],
    }.items():
        journal.write_bytes(content)
        run(Objective(), tmp_path, trials=12)
        ends[name] = without_times(finished(tmp_path))
    assert len(ends["whole"]) == 12 and ends["whole"] == ends["first byte"] == ends["all but its end"]


def test_a_finished_search_computes_nothing_again(tmp_path):
    record = run(Objective(), tmp_path)
    again = Objective()
    assert run(again, tmp_path) == record
    assert again.evaluated == 0


# With a model.


class Interrupted(real.Objective):
    """An objective that an interrupt reaches in its n-th evaluation."""

    left = math.inf

    def measure(self, plan, best_losses=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().measure(plan, best_losses)


def test_with_a_model_too_an_interrupted_search_makes_the_same_trials_to_the_bit(tmp_path):
    model = tiny(layers=3, groups=2)
    texts = {"a": tokens(9, 12, seed=1), "b": tokens(8, 12, seed=2)}
    keys = {"trials": 7, "baselines": ["llm-pruner-e1", "llm-pruner-e2"], "stop": None}
    found = {}
    for name, ends in (("whole", [math.inf]), ("broken", [1, 3, math.inf])):
        (tmp_path / name).mkdir()
        for left in ends:
            allocation = Cut(ratio=0.2, heads="pooled")
            objective = Interrupted(model, tokens(12, 10, seed=3), texts, [1, 2], allocation)
            objective.left = left
            try:
                found[name] = run(objective, tmp_path / name, seed=0, **keys).best
            except KeyboardInterrupt:
                assert left < math.inf
    assert found["broken"] == found["whole"]
    assert without_times(finished(tmp_path / "broken")) == without_times(finished(tmp_path / "whole"))
    assert (tmp_path / "broken/plan.safetensors").read_bytes() == (tmp_path / "whole/plan.safetensors").read_bytes()
    plan = Plan.load(tmp_path / "whole/plan.safetensors")
    assert objective.measure(plan).value == found["whole"].value


def test_killed_between_queueing_a_baseline_and_taking_it_up_a_search_goes_on(tmp_path):
    study = open_study(tmp_path, "joint")
    study.enqueue_trial({"x": 0.5})
    fail_unfinished(study)
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL"]
    assert study.ask().number == 1  # nothing is left in the queue
