"""Studies in PostgreSQL and in a journal, and what keeps a search where it was begun."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pytest
from search_objective import MARK, Objective, build, build_mortal, run
from test_workers import KEYS, Slow

from reproducer.errors import UserError
from reproducer.queue.engines.local import Processes
from reproducer.search.storage import STUDIES

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def postgres():
    """The URL of a database of a server that runs for these tests alone."""
    pytest.importorskip("psycopg", reason="psycopg, the driver of PostgreSQL, is not installed")
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    programs, port = PROGRAMS[-1].parent, free_port()
    # it refuses to run as root, and a temporary folder of pytest is root's alone
    folder = Path(tempfile.mkdtemp())
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    options = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    made = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "tests", "--no-sync"]
    subprocess.run(made, check=True, **options)
    settings = ["-k", "", "-h", "127.0.0.1", "-p", str(port), "-F"]
    server = subprocess.Popen([programs / "postgres", "-D", folder / "data", *settings], **options)
    url = f"postgresql+psycopg://tests:secret@127.0.0.1:{port}/postgres"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 1):
                    break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
        time.sleep(1)  # between listening and taking connections
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # at SIGTERM it waits for clients, and this process is one
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["postgres", "journal"])
def studies(request, monkeypatch):
    """Where studies are kept."""
    where = request.getfixturevalue("postgres") if request.param == "postgres" else ""
    monkeypatch.setenv(STUDIES, where)


def counted(record):
    trials = [trial for trial in record.trials if trial.state != "failed"]
    assert len({trial.number for trial in trials}) == len(trials) == 12, "each once"
    assert len({json.dumps(trial.params) for trial in trials}) == 12
    return trials


@pytest.mark.parametrize("mortal", [False, True])
def test_workers_of_two_machines_count_every_trial_once(studies, tmp_path, monkeypatch, mortal):
    """Processes in place of machines: they share the folder and the study, and nothing else."""
    monkeypatch.setenv(MARK, str(tmp_path / "started"))
    engine = Processes(1)
    record = run(Slow(), tmp_path, engine=engine, build=build_mortal if mortal else build, **KEYS)
    engine.close()
    assert {trial.worker for trial in counted(record)} == {0, 1}
    failed = [trial for trial in record.trials if trial.state == "failed"]
    assert len(failed) == mortal, "the trial of the killed worker"
    assert (tmp_path / "study.journal").exists() == (not os.environ[STUDIES])


KILLED = """
import sys
from pathlib import Path
from search_objective import Objective, run
run(Objective(killed_at=int(sys.argv[2])), Path(sys.argv[1]), trials=12, baselines=["llm-pruner-e1"])
"""


def test_a_killed_search_goes_on_in_its_study(studies, tmp_path, monkeypatch):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    folder = tmp_path / "search"
    folder.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, folder, "6"], env={**os.environ, "PYTHONPATH": path})
    assert killed.returncode == -9
    again = Objective()
    record = run(again, folder, trials=12, baselines=["llm-pruner-e1"])
    trials = counted(record)
    assert sum(trial.state == "failed" for trial in record.trials) == 1, "the one that was under way"
    assert again.evaluated < len(trials), "the others were not done again"
    # a folder that is emptied, as that of a stage whose inputs have changed, is a search of its own
    shutil.rmtree(folder)
    folder.mkdir()
    anew = Objective()
    run(anew, folder, trials=12, baselines=["llm-pruner-e1"])
    assert anew.evaluated >= 12


def test_a_search_goes_on_where_it_was_begun(postgres, tmp_path, monkeypatch):
    run(Objective(), tmp_path, trials=4)
    monkeypatch.setenv(STUDIES, postgres)
    objective = Objective()
    run(objective, tmp_path, trials=4)
    assert objective.evaluated == 0 and not (tmp_path / "study.token").exists(), "in its study.journal"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(Objective(), elsewhere, trials=4)
    names = optuna.get_all_study_names(postgres)
    assert any(name.startswith("elsewhere-") and name.endswith("/joint") for name in names)
    monkeypatch.delenv(STUDIES)
    with pytest.raises(UserError, match="was begun in a database\nname it in REPRODUCER_STUDIES"):
        run(Objective(), elsewhere, trials=4)


@pytest.mark.parametrize("url", ["postgresql+psycopg://me:secret@127.0.0.1:9/x", "nosuch://me:secret@host/x", "a b"])
def test_a_database_that_cannot_be_used_is_told_without_its_password(tmp_path, monkeypatch, url):
    monkeypatch.setenv(STUDIES, url)
    with pytest.raises(UserError, match="the database of REPRODUCER_STUDIES cannot be used") as caught:
        run(Objective(), tmp_path, trials=4)
    assert "secret" not in str(caught.value) and "psycopg[binary]" in caught.value.hint
