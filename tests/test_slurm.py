"""The README's batch scripts, with processes in place of nodes: `srun` and `scontrol` are stand-ins."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8").partition("#### In SLURM")[2]
SPEC = """\
name: small-run
models: [tiny-gqa]
methods: [magnitude, vector, llm-pruner-e1]
prune: {ratio: 0.20, layers: [1, 5]}
calibration: {dataset: python-topics, samples: 3, length: 32, pool: 40}
evaluate: {perplexity: [python-topics], seq_len: 32, windows: 4}
"""
SCONTROL = "#!/bin/sh\necho 127.0.0.1\n"
# what `srun` does with the options of the scripts: so many tasks, which end when it does
SRUN = """\
#!/bin/bash
tasks=${SLURM_NNODES}
while [[ $1 == --* ]]; do
    [[ $1 == --ntasks=* ]] && tasks=${1#*=}
    shift
done
[[ $1 == ray ]] && set -- "$@" --object-store-memory=80000000
trap 'kill $(jobs -p); wait' TERM
for ((task = 0; task < tasks; task++)); do SLURM_PROCID=$task "$@" & done
wait
"""


@pytest.fixture
def allocation(tmp_path):
    """Runs a script as `sbatch` does, on three nodes."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "reproduce").write_text(f'#!/bin/sh\nexec {sys.executable} -m reproducer.cli "$@"\n')
    (programs / "reproduce").chmod(0o755)
    (tmp_path / "spec.yaml").write_text(SPEC)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NNODES": "3", "SLURM_JOB_NODELIST": "n[1-3]"}
    environment = {
        **os.environ, **job, "SLURM_CPUS_PER_TASK": "1", "PATH": path, "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip

    def run(script: str) -> str:
        (tmp_path / "run.sh").write_text(script)
        command = ["bash", "run.sh", "spec.yaml", "--store", "store"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def rows(folder: Path) -> list:
    found = json.loads((folder / "small-run" / "results.json").read_text())
    return [(row["label"], row["status"], row["metrics"]) for row in found["rows"]]


@pytest.mark.slow
def test_a_ray_cluster_in_an_allocation(allocation, tmp_path):
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    allocation(re.search(r"```sh\n(#!/bin/bash.*?)```", README, re.DOTALL)[1])
    assert [status for _, status, _ in rows(tmp_path / "out")] == ["done"] * 4
    for one in psutil.process_iter(["environ", "cmdline"]):
        own = (one.info["environ"] or {}).get("SLURM_JOB_ID") == str(os.getpid())
        assert not own or one.status() == psutil.STATUS_ZOMBIE, f"left behind: {one.info['cmdline']}"


@pytest.mark.slow
def test_runs_that_share_a_store_in_an_allocation(allocation, tmp_path):
    said = allocation(re.search(r"`(srun sh .*?)`", README)[1])
    found = [rows(tmp_path / f"out-{number}") for number in range(3)]
    assert found[0] == found[1] == found[2] and len(found[0]) == 4
    stages = len(list((tmp_path / "store" / "logs").iterdir()))
    assert len(re.findall(": done in ", said)) == stages, "each once in all"
