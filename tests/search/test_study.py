"""The study on an objective that costs nothing: resumption, baselines, samplers, orders, stopping, damage."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import optuna
import pytest
from search_objective import Objective

from reproducer.errors import UserError
from reproducer.pruning.allocation import Allocation
from reproducer.pruning.plan import Plan
from reproducer.search import objective as real
from reproducer.search import samplers
from reproducer.search.space import Space
from reproducer.search.study import SearchSettings, search
from tests.helpers import tiny, tokens

SPACE = Space(pool=20, samples=3, fixed=(1, 5, 9))
SETTINGS = SearchSettings(
    trials=14,
    seed=3,
    encoding="indices",
    stop=False,
    baselines=("magnitude", "vector", "llm-pruner-e1", "llm-pruner-e2"),
)


def read(directory, name):
    return json.loads((directory / name).read_text())


def finished(directory, *states):
    return [trial for trial in read(directory, "trials.json") if trial["state"] in (states or ("complete", "pruned"))]


def without_times(trials):
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in trials]


WAYS = [
    {"sampler": sampler, "mode": mode, "encoding": None, "stop": None}
    for sampler in ("local", "tpe", "random")
    for mode in ("default", "paper")[: 2 if sampler == "tpe" else 1]
]
WAYS += [
    {"sampler": "gp", "trials": 8},
    {"sampler": "cmaes", "trials": 18, "encoding": "features"},
    {"sampler": "cmaes", "encoding": "ordered", "stop": True},
    {"order": "sequential", "stop": True},
    {"order": "sequential", "sampler": "cmaes", "trials": 22},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_a_search_interrupted_twice_makes_the_trials_of_an_unbroken_one(tmp_path, way):
    settings = replace(SETTINGS, **way)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    found = search(Objective(), SPACE, settings, whole)
    for dies_at in (3, settings.trials // 2):
        with pytest.raises(KeyboardInterrupt):
            search(Objective(dies_at=dies_at), SPACE, settings, broken)
    assert search(Objective(), SPACE, settings, broken) == found
    assert without_times(finished(broken)) == without_times(finished(whole))
    assert len(finished(whole)) == settings.trials
    assert (broken / "plan.safetensors").read_text() == (whole / "plan.safetensors").read_text()
    failed = len(finished(broken, "fail"))
    assert failed == 2 or (failed == 1 and len(read(broken, "candidates.json")) > 1)  # the first died with a candidate
    assert read(broken, "importances.json") == read(whole, "importances.json")
    spent, least = read(broken, "costs.json"), read(whole, "costs.json")
    assert (spent["trials"], spent["stopped"]) == (least["trials"], least["stopped"]) and spent["seconds"] > 0
    assert least["sample_tokens"] == 3 * (settings.trials + len(read(whole, "candidates.json")))
    assert spent["sample_tokens"] == least["sample_tokens"] + 3 * (2 - failed)  # trials that died are not counted


@pytest.mark.parametrize("encoding", ["indices", "ordered"])
def test_the_first_trials_are_the_baselines_that_lie_in_the_space(tmp_path, encoding):
    search(Objective(), SPACE, replace(SETTINGS, encoding=encoding, stop=True), tmp_path)
    first = finished(tmp_path)[:3]
    assert [trial["baseline"] for trial in first] == ["vector", "llm-pruner-e1", "llm-pruner-e2"]
    assert all(trial["state"] == "complete" for trial in first)
    if encoding == "indices":
        assert all(tuple(trial["params"][f"sample_{place}"] for place in range(3)) == SPACE.fixed for trial in first)
    assert [trial["params"]["alpha1"] for trial in first] == [1.0, 0.0, 0.0]
    assert [trial["params"]["fine_second"] for trial in first][1:] == [0.0, "only"]
    assert all(trial["baseline"] is None for trial in finished(tmp_path)[3:])


def test_a_baseline_beside_the_space_that_is_better_is_what_the_search_returns(tmp_path):
    found = search(Objective(magnitude=1.5), SPACE, SETTINGS, tmp_path)
    assert (found.method, found.baseline, found.value, found.trial) == ("magnitude", "magnitude", 1.5, None)
    assert json.loads((tmp_path / "plan.safetensors").read_text())[0] == "magnitude"
    assert read(tmp_path, "candidates.json") == {"magnitude": 1.5}


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_baseline_beside_the_space_without_a_finite_objective_is_kept_as_that(tmp_path, value):
    found = search(Objective(magnitude=value), SPACE, SETTINGS, tmp_path)
    assert read(tmp_path, "candidates.json") == {"magnitude": None}
    assert found.method == "adapruner" and math.isfinite(found.value)
    assert search(Objective(magnitude=1.5), SPACE, SETTINGS, tmp_path) == found, "it is not measured again"


@pytest.mark.parametrize("part", [{"taylor": "first"}, {"data": "ten-spaces"}, {"data": "random"}])
def test_an_ablation_returns_what_its_own_space_holds(tmp_path, part):
    found = search(Objective(magnitude=1.5), replace(SPACE, **part), SETTINGS, tmp_path)
    assert read(tmp_path, "candidates.json")["magnitude"] == 1.5
    assert found.method == "adapruner" and found.value > 1.5
    assert found.value == min(trial["value"] for trial in finished(tmp_path))


@pytest.mark.parametrize("encoding", ["indices", "ordered", "features"])
@pytest.mark.parametrize("trials", [1, 4, 14])
def test_the_result_is_the_least_of_all_trials_and_candidates(tmp_path, trials, encoding):
    settings = replace(SETTINGS, trials=trials, seed=1, encoding=encoding)
    found = search(Objective(), SPACE, settings, tmp_path)
    values = [trial["value"] for trial in finished(tmp_path)]
    inside = 0 if encoding == "features" else 3
    assert len(values) == max(trials, inside)  # the baselines are always scored
    beside = read(tmp_path, "candidates.json")
    assert len(beside) == 4 - inside
    assert found.value == min([*values, *beside.values()])


def test_searching_beats_the_baselines_on_a_smooth_objective(tmp_path):
    found = search(Objective(), SPACE, replace(SETTINGS, trials=60, seed=0, stop=True, encoding="ordered"), tmp_path)
    assert found.baseline is None
    assert found.value < min(trial["value"] for trial in finished(tmp_path) if trial["baseline"])
    shares = read(tmp_path, "importances.json")
    assert sum(shares.values()) == pytest.approx(1) and "fine_second" in shares and "fine_scale" not in shares


def test_with_random_data_every_trial_has_the_baselines_samples(tmp_path):
    found = search(Objective(), replace(SPACE, data="random"), SETTINGS, tmp_path)
    assert found.samples == [1, 5, 9]
    assert not any(name.startswith("sample_") for trial in finished(tmp_path) for name in trial["params"])


def test_an_objective_that_is_not_finite_loses_and_does_not_stop_the_search(tmp_path):
    class Sometimes(Objective):
        def bowl(self, method, samples, settings):
            value = super().bowl(method, samples, settings)
            return math.nan if self.evaluated % 3 == 0 else value

    found = search(Sometimes(), SPACE, SETTINGS, tmp_path)
    assert math.isfinite(found.value)
    assert all(math.isfinite(trial["value"]) for trial in finished(tmp_path, "complete"))
    assert len(finished(tmp_path, "pruned")) > 2 and read(tmp_path, "costs.json")["stopped"] == 0


def test_a_search_that_finds_nothing_finite_says_so(tmp_path):
    class Never(Objective):
        def bowl(self, method, samples, settings):
            return math.inf

    for order in ("joint", "sequential"):
        with pytest.raises(UserError, match="finite"):
            search(Never(), SPACE, replace(SETTINGS, baselines=(), trials=3, order=order), tmp_path)


# Hopeless trials.


def test_a_stopped_trial_counts_has_no_value_and_tells_the_sampler_its_partial_one(tmp_path):
    objective = Objective()
    found = search(objective, SPACE, replace(SETTINGS, stop=True, trials=30), tmp_path)
    stopped = finished(tmp_path, "pruned")
    assert len(stopped) == objective.stopped > 3
    assert len(finished(tmp_path)) == 30
    assert all(trial["value"] is None and trial["baseline"] is None for trial in stopped)
    assert all(trial["partial"] > found.value for trial in stopped)
    assert all(trial["partial"] is None for trial in finished(tmp_path, "complete"))
    study = optuna.load_study(study_name="adapruner", storage=f"sqlite:///{tmp_path / 'study.db'}")
    pruned = study.get_trials(states=(optuna.trial.TrialState.PRUNED,))
    assert [t.intermediate_values for t in pruned] == [{1: trial["partial"]} for trial in stopped]
    costs = read(tmp_path, "costs.json")
    assert (costs["trials"], costs["stopped"]) == (30, len(stopped))
    assert costs["text_tokens"] == objective.text_tokens == 2 * (30 + 1) - len(stopped)
    assert costs["sample_tokens"] == objective.sample_tokens


def test_the_best_is_found_among_whole_trials_only(tmp_path):
    """A slice may look better than the whole: it is no objective."""
    objective = Objective(hopeless=-1e9)
    found = search(objective, SPACE, replace(SETTINGS, stop=True, trials=10), tmp_path)
    assert len(finished(tmp_path, "pruned")) == 7 and found.baseline is not None


@pytest.mark.parametrize(
    ("mode", "sampler", "stops", "coding"),
    [
        ("default", "local", True, "indices"),
        ("default", "tpe", True, "ordered"),
        ("paper", "tpe", False, "indices"),
        ("default", "gp", False, "ordered"),
    ],
)
def test_what_a_mode_means(mode, sampler, stops, coding):
    settings = SearchSettings(trials=5, mode=mode, sampler=sampler)
    assert (settings.sampling, settings.stops, settings.coding) == (sampler, stops, coding)
    by_itself = {"default": "local", "paper": "tpe"}[mode]
    assert SearchSettings(trials=5, mode=mode).sampling == by_itself
    assert SearchSettings(trials=5, mode=mode, encoding="features", stop=False).coding == "features"


def test_a_sampler_that_does_not_learn_from_stopped_trials_is_not_given_any():
    with pytest.raises(UserError, match="gp"):
        SearchSettings(trials=5, sampler="gp", stop=True)


def test_a_local_search_looks_around_at_random_first(tmp_path):
    trials = {}
    for name, way in (("8", {"start": 8}), ("0", {"start": 0}), ("random", {"sampler": "random"})):
        (tmp_path / name).mkdir()
        search(Objective(), SPACE, replace(SETTINGS, trials=24, stop=False, **way), tmp_path / name)
        trials[name] = finished(tmp_path / name)

    def changed(trial, before):
        best = min(before, key=lambda one: one["value"])["params"]
        return sum(best[key] != value for key, value in trial["params"].items())

    drawn = [[trial["params"] for trial in trials[name]] for name in ("8", "random")]
    assert drawn[0][:8] == drawn[1][:8] and drawn[0][8:] != drawn[1][8:]
    for start in (8, 3):  # behind the three baselines
        of = trials[{8: "8", 3: "0"}[start]]
        changes = [changed(of[place], of[:place]) for place in range(start, 24)]
        assert sum(changes) / len(changes) < 4
    assert changed(trials["8"][5], trials["8"][:5]) > 4


def test_how_long_it_looks_around():
    assert SearchSettings(trials=60).starting == 15
    assert SearchSettings(trials=60, start=0).starting == 0
    assert SearchSettings(trials=60, sampler="tpe").starting == 0
    with pytest.raises(UserError, match="local"):
        SearchSettings(trials=60, mode="paper", start=5)


def test_cmaes_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(samplers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="cmaes") as error:
        search(Objective(), SPACE, replace(SETTINGS, sampler="cmaes"), tmp_path)
    assert "pip install cmaes" in str(error.value)


# One after the other.


def test_data_first_and_then_the_metric(tmp_path):
    found = search(Objective(), SPACE, replace(SETTINGS, order="sequential", sampler="tpe", trials=21), tmp_path)
    trials = finished(tmp_path)
    data, metric = trials[:10], trials[10:]
    assert [trial["number"] for trial in trials] == list(range(21))
    assert {trial["phase"] for trial in data} == {"adapruner-data"} and {t["phase"] for t in metric} == {"adapruner"}
    names = ("alpha1", "alpha2", "fine_second")
    assert {tuple(trial["params"][name] for name in names) for trial in data} == {(0.0, 1.0, "only")}
    best = min(data, key=lambda trial: trial["value"])
    samples = [f"sample_{place}" for place in range(3)]
    assert all(trial["params"][name] == best["params"][name] for trial in metric for name in samples)
    assert len({tuple(trial["params"][name] for name in samples) for trial in data}) == 10
    assert len({trial["params"]["alpha1"] for trial in metric}) == 11
    assert all(trial["params"].keys() == trials[0]["params"].keys() for trial in trials)
    assert data[0]["baseline"] == "llm-pruner-e2"  # the one with the fixed metric; the others stand beside
    assert read(tmp_path, "candidates.json").keys() == {"magnitude", "vector", "llm-pruner-e1"}
    assert found.value == min(trial["value"] for trial in trials)
    assert sum(read(tmp_path, "importances.json").values()) == pytest.approx(1)


def test_in_a_space_without_that_metric_the_data_are_searched_with_the_first_values(tmp_path):
    space = replace(SPACE, coarse_second=(0.0,), fine_second=(0.0, 1e6))
    search(Objective(), space, replace(SETTINGS, order="sequential"), tmp_path)
    data = [trial for trial in finished(tmp_path) if trial["phase"] == "adapruner-data"]
    assert {trial["params"]["fine_second"] for trial in data} == {0.0} and len(data) == 7
    assert data[0]["baseline"] == "llm-pruner-e1"


def test_without_data_to_search_there_is_nothing_to_do_one_after_the_other(tmp_path):
    search(Objective(), replace(SPACE, data="random"), replace(SETTINGS, order="sequential"), tmp_path)
    assert {trial["phase"] for trial in finished(tmp_path)} == {"adapruner"}


# The storage.


def test_a_damaged_study_is_reported_and_left_as_it_is(tmp_path):
    search(Objective(), SPACE, SETTINGS, tmp_path)
    database = tmp_path / "study.db"
    database.write_bytes(b"garbage" * 1000)
    with pytest.raises(UserError, match=r"study\.db cannot be read"):
        search(Objective(), SPACE, SETTINGS, tmp_path)
    assert database.read_bytes() == b"garbage" * 1000


def test_the_storage_is_plain_optuna(tmp_path):
    found = search(Objective(), SPACE, SETTINGS, tmp_path)
    study = optuna.load_study(study_name="adapruner", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert study.best_value == found.value


def test_a_finished_search_computes_nothing_again(tmp_path):
    found = search(Objective(), SPACE, SETTINGS, tmp_path)
    again = Objective()
    assert search(again, SPACE, SETTINGS, tmp_path) == found
    assert again.evaluated == 0


def test_few_trials_have_no_importances(tmp_path):
    search(Objective(), SPACE, replace(SETTINGS, trials=9), tmp_path)
    assert read(tmp_path, "importances.json") == {}


def test_seeds_differ_and_repeat(tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        search(Objective(), SPACE, replace(SETTINGS, trials=8, seed=seed, baselines=()), tmp_path / name)
        runs.append(without_times(finished(tmp_path / name)))
    assert runs[0] == runs[1] != runs[2]


# With a model.


class Interrupted(real.Objective):
    """An objective that an interrupt reaches in its n-th evaluation."""

    left = math.inf

    def measure(self, plan, against=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().measure(plan, against)


@pytest.mark.parametrize("sampler", ["local", "tpe", "gp", "cmaes"])
def test_with_a_model_too_an_interrupted_search_makes_the_same_trials_to_the_bit(tmp_path, sampler):
    model = tiny(layers=3, groups=2)
    texts = {"a": tokens(9, 12, seed=1), "b": tokens(8, 12, seed=2)}
    settings = SearchSettings(trials=7, sampler=sampler, baselines=("llm-pruner-e1", "llm-pruner-e2"))
    found = {}
    for name, ends in (("whole", [math.inf]), ("broken", [1, 3, math.inf])):
        (tmp_path / name).mkdir()
        for left in ends:
            allocation = Allocation(ratio=0.2, heads="pooled")
            objective = Interrupted(model, tokens(12, 10, seed=3), texts, [1, 2], allocation)
            objective.left = left
            try:
                found[name] = search(objective, replace(SPACE, pool=12), settings, tmp_path / name)
            except KeyboardInterrupt:
                assert left < math.inf
    assert found["broken"] == found["whole"]
    assert without_times(finished(tmp_path / "broken")) == without_times(finished(tmp_path / "whole"))
    assert (tmp_path / "broken/plan.safetensors").read_bytes() == (tmp_path / "whole/plan.safetensors").read_bytes()
    plan = Plan.load(tmp_path / "whole/plan.safetensors")
    assert objective.measure(plan).value == found["whole"].value
