"""Several processes on one study."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from search_objective import MARK, Objective, build, build_mortal

from reproducer.search.space import Space
from reproducer.search.study import SearchSettings, search

SPACE = Space(pool=20, samples=3, fixed=(1, 5, 9))
SETTINGS = SearchSettings(trials=12, baselines=("llm-pruner-e1", "llm-pruner-e2"), encoding="indices", workers=2)


class Slow(Objective):
    """Waits for the other process once it is to come, and leaves it time for some trials."""

    def measure(self, plan, against=None):
        if self.evaluated >= 2:
            for _ in range(600):
                if Path(os.environ[MARK]).exists():
                    break
                time.sleep(0.1)
            time.sleep(0.3)
        return super().measure(plan, against)


def finished(directory):
    trials = json.loads((directory / "trials.json").read_text())
    return [trial for trial in trials if trial["state"] != "fail"], [t for t in trials if t["state"] == "fail"]


@pytest.mark.parametrize("mortal", [False, True])
def test_processes_share_the_trials_and_one_that_dies_loses_no_more_than_its_own(tmp_path, caplog, monkeypatch, mortal):
    monkeypatch.setenv(MARK, str(tmp_path / "started"))
    found = search(Slow(), SPACE, SETTINGS, tmp_path, build=build_mortal if mortal else build)
    trials, failed = finished(tmp_path)
    assert len(trials) == 12
    assert {trial["worker"] for trial in trials} == {0, 1}
    assert [trial["baseline"] for trial in trials[:2]] == ["llm-pruner-e1", "llm-pruner-e2"]
    assert len({trial["number"] for trial in trials}) == 12
    assert len({json.dumps(trial["params"]) for trial in trials}) == 12  # no two processes make the same trial
    assert (len(failed), any("exit code -9" in text for text in caplog.messages)) == (int(mortal), mortal)
    best = min((trial for trial in trials if trial["value"] is not None), key=lambda trial: trial["value"])
    assert (found.value, found.trial, found.workers) == (best["value"], best["number"], 2)
    assert json.loads((tmp_path / "best.json").read_text())["workers"] == 2
    assert json.loads((tmp_path / "plan.safetensors").read_text())[2] == found.parameters


def test_a_worker_needs_to_know_how_to_build_the_objective(tmp_path):
    with pytest.raises(ValueError, match="build"):
        search(Objective(), SPACE, SETTINGS, tmp_path)
