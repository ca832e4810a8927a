"""The study on an objective that costs nothing: resumption, baselines, damage."""

from __future__ import annotations

import json
import math
import shutil

import optuna
import pytest

from reproducer.errors import UserError
from reproducer.search.space import Space
from reproducer.search.study import SearchSettings, search

SPACE = Space(pool=20, samples=3, fixed=(1, 5, 9))
SETTINGS = SearchSettings(trials=14, seed=3, baselines=("magnitude", "vector", "llm-pruner-e1", "llm-pruner-e2"))


class Plan:
    def __init__(self, text):
        self.text = text

    def save(self, path):
        path.write_text(self.text)


class Objective:
    """A bowl over the samples and the metric's parameters; `magnitude` has the value it is given."""

    def __init__(self, magnitude=1e6, dies_at=None):
        self.magnitude, self.dies_at, self.evaluated = magnitude, dies_at, 0

    def statistics(self, samples, needs):
        return {}

    def plan(self, rule, samples, method, settings, seed=0):
        return Plan(json.dumps([method, list(samples), settings], sort_keys=True))

    def value(self, plan):
        self.evaluated += 1
        if self.evaluated == self.dies_at:
            raise KeyboardInterrupt
        method, samples, settings = json.loads(plan.text)
        if method == "magnitude":
            return self.magnitude
        second = {"only": 3.0, 0.0: 9.0}.get(settings["fine_second"], 1.0)
        return 50 + sum((index - 7) ** 2 for index in samples) / 10 + second + abs(settings["alpha1"] - 0.3)


def finished(directory):
    return [trial for trial in json.loads((directory / "trials.json").read_text()) if trial["state"] == "complete"]


def without_times(trials):
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in trials]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("mode", ["default", "paper"])
def test_a_search_interrupted_twice_makes_the_trials_of_an_unbroken_one(tmp_path, sampler, mode):
    settings = SearchSettings(trials=14, sampler=sampler, mode=mode, seed=3, baselines=SETTINGS.baselines)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    found = search(Objective(), SPACE, settings, whole)
    for dies_at in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            search(Objective(dies_at=dies_at), SPACE, settings, broken)
    assert search(Objective(), SPACE, settings, broken) == found
    assert without_times(finished(broken)) == without_times(finished(whole))
    assert (broken / "plan.safetensors").read_text() == (whole / "plan.safetensors").read_text()
    states = [trial["state"] for trial in json.loads((broken / "trials.json").read_text())]
    assert states.count("fail") == 2 and states.count("complete") == 14


def test_the_first_trials_are_the_baselines_that_lie_in_the_space(tmp_path):
    search(Objective(), SPACE, SETTINGS, tmp_path)
    first = finished(tmp_path)[:3]
    assert [trial["baseline"] for trial in first] == ["vector", "llm-pruner-e1", "llm-pruner-e2"]
    assert all(tuple(trial["params"][f"sample_{place}"] for place in range(3)) == SPACE.fixed for trial in first)
    assert [trial["params"]["alpha1"] for trial in first] == [1.0, 0.0, 0.0]
    assert [trial["params"]["fine_second"] for trial in first][1:] == [0.0, "only"]
    assert all(trial["baseline"] is None for trial in finished(tmp_path)[3:])


def test_a_baseline_beside_the_space_that_is_better_is_what_the_search_returns(tmp_path):
    found = search(Objective(magnitude=1.5), SPACE, SETTINGS, tmp_path)
    assert (found.method, found.baseline, found.value, found.trial) == ("magnitude", "magnitude", 1.5, None)
    assert json.loads((tmp_path / "plan.safetensors").read_text())[0] == "magnitude"
    assert json.loads((tmp_path / "candidates.json").read_text()) == {"magnitude": 1.5}


@pytest.mark.parametrize("trials", [1, 4, 14])
def test_the_result_is_the_least_of_all_trials_and_candidates(tmp_path, trials):
    settings = SearchSettings(trials=trials, seed=1, baselines=SETTINGS.baselines)
    found = search(Objective(), SPACE, settings, tmp_path)
    values = [trial["value"] for trial in finished(tmp_path)]
    assert len(values) == max(trials, 3)  # the baselines are always scored
    assert found.value == min([*values, 1e6])


def test_searching_beats_the_baselines_on_a_smooth_objective(tmp_path):
    found = search(Objective(), SPACE, SearchSettings(trials=60, seed=0, baselines=SETTINGS.baselines), tmp_path)
    assert found.baseline is None
    assert found.value < min(trial["value"] for trial in finished(tmp_path) if trial["baseline"])


def test_with_random_data_every_trial_has_the_baselines_samples(tmp_path):
    space = Space(pool=20, samples=3, fixed=(1, 5, 9), data="random")
    found = search(Objective(), space, SETTINGS, tmp_path)
    assert found.samples == [1, 5, 9]
    assert not any(name.startswith("sample_") for trial in finished(tmp_path) for name in trial["params"])


def test_an_objective_that_is_not_finite_loses_and_does_not_stop_the_search(tmp_path):
    class Sometimes(Objective):
        def value(self, plan):
            value = super().value(plan)
            return math.nan if self.evaluated % 3 == 0 else value

    found = search(Sometimes(), SPACE, SETTINGS, tmp_path)
    assert math.isfinite(found.value)
    assert all(math.isfinite(trial["value"]) for trial in finished(tmp_path))


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


def test_seeds_differ_and_repeat(tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        settings = SearchSettings(trials=8, seed=seed, baselines=())
        search(Objective(), SPACE, settings, tmp_path / name)
        runs.append(without_times(finished(tmp_path / name)))
        shutil.rmtree(tmp_path / name)
    assert runs[0] == runs[1] != runs[2]


def test_a_space_without_the_values_of_a_baseline_does_not_hold_it():
    first_order = Space(pool=20, samples=3, fixed=(0, 1, 2), fine_second=(0.0,), coarse_second=(0.0,))
    assert first_order.embed("llm-pruner-e1") is not None
    assert first_order.embed("llm-pruner-e2") is None
    assert first_order.embed("magnitude") is None
    with pytest.raises(UserError, match="pool has 2"):
        Space(pool=2, samples=3, fixed=(0, 1))
