"""A spec whose runs and workers are killed at random, and whose store is damaged in between, gives the same rows."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import psutil
import pytest

from reproducer.queue import Store, topological
from reproducer.spec import load
from reproducer.stages.document import expand_all

ROOT = Path(__file__).parents[2]
SPEC = """\
name: small-run
models: [tiny-gqa]
methods: [magnitude, {name: adapruner, search: {trials: 6}}]
prune: {ratio: 0.20, layers: [1, 5]}
calibration: {dataset: python-topics, samples: 3, length: 32, pool: 40}
evaluate: {perplexity: [python-topics], seq_len: 32, windows: 4}
"""
KILLS = 4


def start(folder: Path, name: str, jobs: str) -> "subprocess.Popen[bytes]":
    options = ["--store", f"store-{name}", "--out", f"out-{name}", "--jobs", jobs]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "reproducer.cli", "run", "spec.yaml", *options]
    with (folder / "said.log").open("ab") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)


def rows(folder: Path, name: str) -> list:
    """What does not depend on time, of a report's rows."""
    names = ("model", "method", "label", "ratio", "recovery", "seed", "status", "metrics", "params", "stages")
    results = json.loads((folder / f"out-{name}/small-run/results.json").read_text())
    return [{name: row[name] for name in names} for row in results["rows"]]


def begun(store: Store) -> int:
    """How many attempts at stages have begun."""
    return sum(path.read_text().count("  started on ") for path in store.root.glob("logs/*"))


def damage(store: Store, stages: list, random: Random) -> str | None:
    """Change a byte of a finished stage's file; returns the stage's key."""
    finished = [(stage, artifact) for stage in stages if (artifact := store.read(stage))]
    files = [(stage.key, found.directory / name) for stage, found in finished for name in found.record["files"]]
    if not files:
        return None
    key, path = random.choice(files)
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 0xFF
    path.write_bytes(content)
    return key


@pytest.mark.slow
def test_killed_and_damaged_at_random(tmp_path):
    random = Random(0)
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert start(tmp_path, "unbroken", "1").wait() == 0, (tmp_path / "said.log").read_text()
    stages, store = expand_all(load(tmp_path / "spec.yaml")).stages, Store(tmp_path / "store-broken")
    kills, damaged, process = 0, [], start(tmp_path, "broken", "2")
    while process.poll() is None or kills < KILLS:
        before = begun(store)
        while process.poll() is None and (kills == KILLS or begun(store) == before):
            time.sleep(0.05)
        time.sleep(random.uniform(0.0, 0.5))
        workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        if process.poll() is None and kills < KILLS:
            kills += 1
            calling = [worker for worker in workers if "spawn_main" in " ".join(worker.cmdline())]
            if calling and kills % 3 == 0:  # a stage that is lost three times is given up
                random.choice(calling).kill()
                continue
            process.kill()
            process.wait()
            _, alive = psutil.wait_procs(workers, timeout=60)
            assert not alive, "what it has started ends with it"
        if process.poll() is not None:
            assert process.returncode in (0, -9), (tmp_path / "said.log").read_text()
            damaged.append(damage(store, stages, random))
            process = start(tmp_path, "broken", "2")
    assert process.returncode == 0, (tmp_path / "said.log").read_text()
    assert rows(tmp_path, "broken") == rows(tmp_path, "unbroken")
    for stage in stages:
        assert store.read(stage) is not None
        done = len(re.findall(r"^\S+ \S+  done in ", store.log_path(stage).read_text(), re.MULTILINE))
        assert 1 <= done <= 1 + sum(damaged.count(one.key) for one in topological([stage])), "nothing runs twice"
    assert not list(store.root.glob("work/*")) and not list(store.root.glob("locks/*.[!l]*"))
