"""The command as a user meets it: exit codes, messages, resumption, sharing. On a tiny random model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from reproducer.cli import main

SPEC = """\
name: small-run
models: [tiny-gqa]
methods: [magnitude, vector, adapruner]
prune: {ratio: 0.20, layers: [1, 5]}
calibration: {dataset: python-topics, samples: 3, length: 32, pool: 40}
search: {trials: 6, windows: 4}
evaluate: {perplexity: [python-topics], seq_len: 32, windows: 4}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    return tmp_path


def results(folder: Path, name: str = "small-run") -> dict:
    return json.loads((folder / "out" / name / "results.json").read_text())


def numbers(found: dict) -> list:
    return [
        (row["label"], row["status"], row["metrics"], row["params"], row["search_objective"]) for row in found["rows"]
    ]


def start(*arguments: str, cwd: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "reproducer.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # what runs the tests may ignore SIGINT, as a shell does for what it puts in the background
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_trials(folder: Path, count: int, process: subprocess.Popen) -> None:
    """Until the running search has finished so many trials."""
    import sqlite3

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for path in folder.glob("store/work/*/study.db"):
            try:
                with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                    done = database.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0]
            except sqlite3.Error:
                continue
            if done >= count:
                return
        time.sleep(0.02)
    pytest.fail(f"the search never reached {count} trials: {process.communicate(timeout=5)[0]}")


def test_a_run_renders_a_report_and_a_second_run_computes_nothing(here, capsys):
    assert main(["spec.yaml"]) == 0
    first = results(here)
    assert [row["method"] for row in first["rows"]] == ["dense", "magnitude", "vector", "adapruner"]
    assert all(row["status"] == "done" for row in first["rows"])
    objectives = {row["label"]: row["search_objective"] for row in first["rows"]}
    assert objectives["AdaPruner"] <= min(objectives["Magnitude"], objectives["Vector"])
    for row in first["rows"][1:]:
        assert row["params_removed"] == pytest.approx(0.20, abs=0.005)
    report = (here / "out/small-run/report.md").read_text()
    for row in first["rows"][1:]:
        assert f"{row['metrics']['python_topics_ppl']:.2f}" in report
    capsys.readouterr()
    assert main(["spec.yaml"]) == 0
    stages = {key for row in first["rows"] for key in row["stages"].values()}
    assert f"({len(stages)} cached)" in capsys.readouterr().out
    assert results(here) == first
    assert main(["report", "spec.yaml", "--out", "again"]) == 0
    assert json.loads((here / "again/small-run/results.json").read_text()) == first
    assert main(["status", "spec.yaml"]) == 0
    assert "missing" not in capsys.readouterr().out


def test_killed_in_the_search_it_ends_with_the_same_rows(here, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "spec.yaml").write_text(SPEC)
    process = start("spec.yaml", cwd=here)
    wait_for_trials(here, 4, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(here.glob("out/*/*")), "no report of half a run"
    process = start("spec.yaml", cwd=here)
    assert process.wait(timeout=300) == 0
    process = start("spec.yaml", cwd=whole)
    process.communicate(timeout=300)
    assert numbers(results(here)) == numbers(results(whole))
    broken, unbroken = (
        [(t["number"], t["value"], t["params"]) for t in found["searches"][0]["trials"] if t["state"] == "complete"]
        for found in (results(here), results(whole))
    )
    assert broken == unbroken


def test_interrupted_it_says_so_and_exits_130(here):
    process = start("spec.yaml", cwd=here)
    wait_for_trials(here, 2, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in output and "Traceback" not in output
    assert list(here.glob("store/prune/*/plan.safetensors"))


def test_two_runs_on_one_store_share_the_work(here):
    processes = [start("spec.yaml", "--out", f"out{n}", cwd=here) for n in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    found = [json.loads((here / f"out{n}/small-run/results.json").read_text()) for n in range(2)]
    assert numbers(found[0]) == numbers(found[1])
    done = [
        int(output.rsplit(" done", 1)[0].rsplit(maxsplit=1)[-1].strip("(")) for output in outputs if " done)" in output
    ]
    assert sum(done) == len({key for row in found[0]["rows"] for key in row["stages"].values()})


def test_a_failing_stage_fails_its_rows_only(here, capsys):
    Path("spec.yaml").write_text(
        SPEC.replace("[magnitude, vector, adapruner]", "[magnitude, {name: vector, prune: {layers: [1, 9]}}]")
    )
    assert main(["spec.yaml"]) == 1
    captured = capsys.readouterr()
    assert "layers to prune: 1 to 8; the model has layers 0 to 5" in captured.err
    assert {row["label"]: row["status"] for row in results(here)["rows"]} == {
        "Tiny-GQA": "done",
        "Magnitude": "done",
        "Vector": "failed",
    }
    assert "Traceback" not in captured.out + captured.err
    Path("spec.yaml").write_text(SPEC.replace("adapruner]", "random]"))
    assert main(["spec.yaml"]) == 0


def test_a_corrupted_artifact_is_named_and_made_again(here, capsys):
    assert main(["spec.yaml"]) == 0
    first = results(here)
    (plan,) = [here / "store/prune" / row["stages"]["plan"] for row in first["rows"] if row["label"] == "Vector"]
    data = bytearray((plan / "plan.safetensors").read_bytes())
    data[-1] ^= 0xFF
    (plan / "plan.safetensors").write_bytes(data)
    capsys.readouterr()
    assert main(["spec.yaml"]) == 0
    output = capsys.readouterr()
    assert "plan.safetensors was changed or damaged" in output.out + output.err
    assert numbers(results(here)) == numbers(first)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ratio: 0.20", "ratio: 0", "spec.yaml:4"),
        ("ratio: 0.20", "ratio: 1", "spec.yaml:4"),
        ("ratio: 0.20", "ratio: .nan", "spec.yaml:4"),
        ("ratio: 0.20", "rato: 0.20", "did you mean 'ratio'"),
        ("[tiny-gqa]", "[tiny-gka]", "did you mean 'tiny-gqa'"),
        ("vector,", "vectro,", "did you mean 'vector'"),
        ("perplexity: [python-topics]", "perplexity: [python-topic]", "did you mean 'python-topics'"),
        ("pool: 40", "pool: 2", "spec.yaml:5"),
    ],
)
def test_mistakes_in_a_spec_exit_2_with_one_message(here, capsys, old, new, message):
    assert old in SPEC
    Path("spec.yaml").write_text(SPEC.replace(old, new))
    assert main(["spec.yaml"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert not Path("store").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ('{"text": "one"}\n{"txt": "two"}\n', "text"),
        ('{"text": "too short"}\n', "of at least 32 tokens; the pool has 0"),
    ],
)
def test_bad_calibration_data_fails_what_needs_it_with_one_message(here, capsys, content, message):
    Path("own.jsonl").write_text(content)
    Path("spec.yaml").write_text(
        SPEC.replace("dataset: python-topics", "dataset: ./own.jsonl").replace(", pool: 40", "")
    )
    assert main(["spec.yaml"]) == 1
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    rows = {row["label"]: row["status"] for row in results(here)["rows"]}
    assert rows == {"Tiny-GQA": "done", "Magnitude": "done", "Vector": "failed", "AdaPruner": "failed"}


def test_a_full_disk_stops_the_run_with_one_message_and_keeps_what_was_finished(here, capsys, monkeypatch):
    import errno

    from reproducer.pruning.plan import Plan

    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Plan, "save", full)
    assert main(["spec.yaml"]) in (1, 2)
    captured = capsys.readouterr()
    assert "full" in captured.err.lower() or "space" in captured.err.lower()
    assert "Traceback" not in captured.err
    assert list(here.glob("store/perplexity/*/result.json"))
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert main(["spec.yaml"]) == 0


def test_check_finds_a_difference(here, capsys):
    assert main(["spec.yaml"]) == 0
    baseline = results(here)
    Path("baseline.json").write_text(json.dumps(baseline))
    assert main(["check", "spec.yaml", "--against", "baseline.json"]) == 0
    baseline["rows"][1]["metrics"]["python_topics_ppl"] *= 1.05
    Path("baseline.json").write_text(json.dumps(baseline))
    assert main(["check", "spec.yaml", "--against", "baseline.json"]) == 1
    assert "Magnitude" in capsys.readouterr().err


def test_clean_removes_what_no_spec_needs(here, capsys):
    assert main(["spec.yaml"]) == 0
    Path("other.yaml").write_text(
        SPEC.replace("[magnitude, vector, adapruner]", "[magnitude]").replace("small-run", "other")
    )
    assert main(["clean", "other.yaml"]) == 0
    assert not list(here.glob("store/search/*/*"))
    capsys.readouterr()
    assert main(["other.yaml", "--dry-run"]) == 0
    assert "0 to run" in capsys.readouterr().out


def test_a_dry_run_estimates_what_is_to_run_and_writes_nothing(here, capsys):
    assert main(["spec.yaml", "--dry-run", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    table, summary, basis = shown.split("\n\n")
    assert len(table.splitlines()[2:]) == table.count("about ") == 9 and "does not fit" not in table
    assert re.fullmatch(r"4 rows, 9 stages, 9 to run, about \d[\w. ]+", summary)
    assert "estimates" in basis and "TFLOP/s" in basis and "float32" in basis
    assert sorted(path.name for path in here.iterdir()) == ["spec.yaml"]
    assert main(["spec.yaml"]) == 0
    Path("spec.yaml").write_text(SPEC.replace("trials: 6", "trials: 7"))
    capsys.readouterr()
    assert main(["spec.yaml", "--dry-run"]) == 0
    table, summary, _ = capsys.readouterr().out.split("\n\n")
    assert table.count("in the store") == 6 and table.count("about ") == 3
    assert summary.startswith("4 rows, 9 stages, 3 to run, about ")


def test_a_dry_run_tells_what_does_not_fit_and_what_it_cannot_know(here, capsys, monkeypatch):
    from reproducer.stages import device

    small = device.Device("a small device", 2**20, lambda dtype: device.Rates(1e9, 1e9))
    monkeypatch.setattr(device, "this_device", lambda name: small)
    Path("spec.yaml").write_text(SPEC.replace("[tiny-gqa]", "[tiny-gqa, someone/model]"))
    assert main(["spec.yaml", "--dry-run", "--device", "cpu"]) == 0
    table, summary, basis = capsys.readouterr().out.split("\n\n")
    lines = {line.split("  ")[2].strip(): line for line in table.splitlines()[2:]}
    assert re.search(r"does not fit: needs \d+ MiB of 1 MiB$", lines["tiny-gqa vector 20%: python-topics"])
    assert table.count("unknown until fetched") == 9
    assert re.search(r"8 rows, 18 stages, 18 to run, at least \d", summary)
    assert "a small device" in basis


def test_a_dry_run_with_nothing_left_to_run_measures_nothing(here):
    assert main(["spec.yaml"]) == 0
    program = (
        "import sys; from reproducer.cli import main; code = main(['spec.yaml', '--dry-run']);"
        "print(code, 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "0 False" and shown.splitlines()[-2] == "4 rows, 9 stages, 0 to run"


def test_a_paper_sized_dry_run_is_quick_and_works_offline(here):
    """Whatever the weights' size: a 7B table is estimated from the config alone."""
    Path("spec.yaml").write_text(SPEC.replace("tiny-gqa", "llama-7b").replace("[1, 5]", "[4, 30]"))
    program = (
        "import socket, sys; from reproducer.cli import main\n"
        "def refuse(*_): raise AssertionError('a dry run asks no network')\n"
        "socket.socket.connect = refuse\n"
        "code = main(['spec.yaml', '--dry-run'])\n"
        "print(code, [m for m in ('transformers', 'optuna', 'peft', 'datasets', 'lm_eval') if m in sys.modules])"
    )
    began = time.monotonic()
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "0 []"
    assert "9 to run, about " in shown
    assert time.monotonic() - began < 60  # seconds on a machine with nothing else to do


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such.yaml"], "no-such.yaml"),
        (["stauts", "spec.yaml"], "did you mean 'status'"),
        (["spec.yaml", "--profile", "tinny"], "tinny"),
        (["spec.yaml", "--set", "prune.ratio"], "--set"),
        (["spec.yaml", "--device", "abacus"], "abacus"),
        (["spec.yaml", "--dry-run", "--device", "abacus"], "abacus"),
        (["spec.yaml", "--jobs", "0"], "--jobs 0"),
        (["check", "spec.yaml", "--against", "nothing.json"], "nothing.json"),
    ],
)
def test_a_wrong_command_line_exits_2(here, capsys, arguments, message):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err


def test_lists(capsys):
    for command in ("methods", "models"):
        assert main([command]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("llm-pruner-mix", "adapruner", "smollm2-135m", "llama-7b"))


def test_a_report_before_the_run_says_that_nothing_ran_yet(here):
    assert main(["report", "spec.yaml"]) == 0
    found = results(here)
    assert {row["status"] for row in found["rows"]} == {"missing"}
    text = (here / "out/small-run/report.md").read_text()
    assert "not run" in text and "| failed" not in text
