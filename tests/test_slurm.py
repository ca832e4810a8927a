"""The batch scripts of docs/machines.md, with processes in place of nodes: `srun` and `scontrol` are stand-ins."""

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
PAGE = (ROOT / "docs/machines.md").read_text(encoding="utf-8").partition("## In SLURM")[2]
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


RAY = """\
#!/bin/bash
echo "ray $*" >> log
[[ $1 == status ]] && { [[ -e up ]]; exit $?; }
[[ $* == *--head* ]] && { sleep 0.5; touch up; }
echo $$ >> pids
exec sleep 300
"""
REPRODUCE = """\
#!/bin/bash
echo "reproduce $*" >> log
sleep 0.5
exit 3
"""
SCRIPT = re.search(r"```sh\n(#!/bin/bash.*?)```", PAGE, re.DOTALL)[1]
ONE_LINE = re.search(r"`(srun sh .*?)`", PAGE)[1]


def stand_in(folder: Path, **programs: str) -> str:
    """PATH with these programs first."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])


def test_the_script_starts_a_cluster_runs_on_it_and_ends_it(tmp_path):
    path = stand_in(tmp_path / "bin", srun=SRUN, scontrol=SCONTROL, ray=RAY, reproduce=REPRODUCE)
    job = {"SLURM_JOB_ID": "77", "SLURM_NNODES": "3", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_CPUS_PER_TASK": "4"}
    (tmp_path / "run.sh").write_text(SCRIPT)
    command = ["bash", "run.sh", "my spec.yaml", "--store", "s"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **job, "PATH": path}, timeout=60)
    assert done.returncode == 3, "the run's own"
    log = (tmp_path / "log").read_text().splitlines()
    [head] = [line for line in log if "--head" in line]
    assert head.startswith("ray start --head --port=20077 --num-cpus=4 --block")
    asked = {line for line in log if line.startswith("ray status")}
    assert asked == {"ray status --address 127.0.0.1:20077"}, "until it is there"
    others = [line for line in log if "--address=127.0.0.1:20077 --num-cpus=4 --block" in line]
    assert len(others) == 2, "the other nodes"
    assert "reproduce my spec.yaml --store s --engine ray:127.0.0.1:20077" in log
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3 and not any(psutil.pid_exists(pid) for pid in pids), "no step is left"


@pytest.fixture
def allocation(tmp_path):
    """Runs a script as `sbatch` does, on three nodes."""
    run_it = f'#!/bin/sh\nexec {sys.executable} -m reproducer.cli "$@"\n'
    path = stand_in(tmp_path / "bin", srun=SRUN, scontrol=SCONTROL, reproduce=run_it)
    (tmp_path / "spec.yaml").write_text(SPEC)
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
    allocation(SCRIPT)
    assert [status for _, status, _ in rows(tmp_path / "out")] == ["done"] * 4
    for one in psutil.process_iter(["environ", "cmdline"]):
        own = (one.info["environ"] or {}).get("SLURM_JOB_ID") == str(os.getpid())
        assert not own or one.status() == psutil.STATUS_ZOMBIE, f"left behind: {one.info['cmdline']}"


@pytest.mark.slow
def test_runs_that_share_a_store_in_an_allocation(allocation, tmp_path):
    said = allocation(ONE_LINE)
    found = [rows(tmp_path / f"out-{number}") for number in range(3)]
    assert found[0] == found[1] == found[2] and len(found[0]) == 4
    stages = len(list((tmp_path / "store" / "logs").iterdir()))
    assert len(re.findall(": done in ", said)) == stages, "each once in all"
