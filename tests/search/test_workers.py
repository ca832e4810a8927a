"""Several workers on one study, by an engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from search_objective import MARK, Objective, build, build_mortal, run

from reproducer.queue.engines.local import InProcess, Processes

KEYS = {"trials": 12, "baselines": ["llm-pruner-e1", "llm-pruner-e2"], "workers": 2, "stop": None}


class Slow(Objective):
    """Waits for the other process once it is to come, and leaves it time for some trials."""

    def measure(self, plan, best_losses=None):
        if self.evaluated >= 2:
            for _ in range(600):
                if Path(os.environ[MARK]).exists():
                    break
                time.sleep(0.1)
            time.sleep(0.3)
        return super().measure(plan, best_losses)


@pytest.fixture
def engine():
    engine = Processes(1)
    yield engine
    engine.close()


@pytest.mark.slow
def test_workers_share_the_trials_and_one_that_dies_loses_no_more_than_its_own(tmp_path, caplog, monkeypatch, engine):
    monkeypatch.setenv(MARK, str(tmp_path / "started"))
    record = run(Slow(), tmp_path, engine=engine, build=build_mortal, **KEYS)
    failed = [trial for trial in record.trials if trial.state == "failed"]
    trials = [trial for trial in record.trials if trial.state != "failed"]
    assert len(trials) == 12
    assert {trial.worker for trial in trials} == {0, 1}
    assert [trial.baseline for trial in trials[:2]] == ["llm-pruner-e1", "llm-pruner-e2"]
    assert len({trial.number for trial in trials}) == 12
    assert len({json.dumps(trial.params) for trial in trials}) == 12  # no two workers make the same trial
    assert len(failed) == 1 and any("a worker of the search ended" in text for text in caplog.messages)
    best = min((trial for trial in trials if trial.value is not None), key=lambda trial: trial.value)
    assert (record.best.value, record.best.number, record.workers) == (best.value, best.number, 2)
    assert json.loads((tmp_path / "plan.safetensors").read_text())[2] == record.best.params


def test_any_engine_will_do(tmp_path, monkeypatch):
    """One that runs a call at once leaves all trials to the second worker."""
    monkeypatch.setenv(MARK, str(tmp_path / "started"))
    record = run(Objective(), tmp_path, engine=InProcess(), build=build, **KEYS)
    assert [trial.worker for trial in record.trials] == [0] * 2 + [1] * 10


KILLED = """
import sys
from search_objective import build, run
from test_workers import KEYS, Slow
from reproducer.queue.engines.local import Processes

if __name__ == "__main__":
    run(Slow(), __import__("pathlib").Path(sys.argv[1]), engine=Processes(1), build=build, **{**KEYS, "trials": 100000})
"""


@pytest.mark.slow
def test_a_search_that_is_killed_leaves_no_worker_and_is_taken_up(tmp_path, monkeypatch, engine):
    mark = tmp_path / "started"
    monkeypatch.setenv(MARK, str(mark))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    script, directory = tmp_path / "killed.py", tmp_path / "search"
    script.write_text(KILLED)
    directory.mkdir()
    process = subprocess.Popen([sys.executable, str(script), str(directory)])
    while not mark.exists():
        assert process.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert workers and not psutil.wait_procs(workers, timeout=30)[1]
    record = run(Objective(), directory, engine=engine, build=build, **KEYS)
    assert sum(trial.state != "failed" for trial in record.trials) >= 12
