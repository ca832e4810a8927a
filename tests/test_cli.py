"""The command as a user meets it: exit codes, messages, resumption, sharing. On a tiny random model."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from reproducer import commands, running
from reproducer.cli import main
from reproducer.reporting import row_line
from reproducer.reporting.numbers import plus_minus
from reproducer.stages.results import Results
from tests.reporting import fake

SPECS = Path(__file__).parents[1] / "specs"
SPEC = """\
name: small-run
models: [tiny-gqa]
methods: [magnitude, vector, adapruner]
prune: {ratio: 0.20, layers: [1, 5]}
calibration: {dataset: python-topics, samples: 3, length: 32, pool: 40}
search: {trials: 6, windows: 4}
evaluate: {perplexity: [python-topics], seq_len: 32, windows: 4}
"""
MEASURED_ANEW = ("--set", "evaluate.windows=3")  # four stages of another recipe


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a run that has ended, in a process as the tests start them; `said` is what it printed."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "spec.yaml").write_text(SPEC)
    (folder / "said").write_text(finish(start("spec.yaml", cwd=folder)))
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the spec alone."""
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    return tmp_path


@pytest.fixture
def finished(here, ran):
    """The same behind a run."""
    shutil.copytree(ran / "store", here / "store")
    shutil.copytree(ran / "out", here / "out")
    return here


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
        # what runs the tests may ignore signals, as a shell and nohup do for what they put in the background
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)],
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def trials_done(folder: Path) -> int:
    """Trials that a running search has finished."""
    for path in folder.glob("store/work/*/study.journal"):
        storage = JournalStorage(JournalFileBackend(str(path)))
        studies = [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]
        return sum(len(study.get_trials(states=(TrialState.COMPLETE,))) for study in studies)
    return 0


def wait_for_trials(folder: Path, count: int, process: subprocess.Popen) -> None:
    """Until the running search has finished so many trials."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if trials_done(folder) >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"the search never reached {count} trials: {process.communicate(timeout=5)[0]}")


def test_a_run_renders_a_report_and_a_second_run_computes_nothing(finished, capsys):
    first = results(finished)
    assert [row["method"] for row in first["rows"]] == ["dense", "magnitude", "vector", "adapruner"]
    assert all(row["status"] == "done" for row in first["rows"])
    objectives = {row["label"]: row["search_objective"] for row in first["rows"]}
    assert objectives["AdaPruner"] <= min(objectives["Magnitude"], objectives["Vector"])
    for row in first["rows"][1:]:
        assert row["params_removed"] == pytest.approx(0.20, abs=0.005)
    report = (finished / "out/small-run/report.md").read_text()
    for row in first["rows"][1:]:
        assert f" {plus_minus(row['metrics']['python_topics_ppl'], None)} |" in report
    stages = {key for row in first["rows"] for key in row["stages"].values()}
    assert main(["spec.yaml"]) == 0
    assert f"({len(stages)} cached)" in capsys.readouterr().out
    assert results(finished) == first
    assert main(["report", "spec.yaml", "--out", "again"]) == 0
    assert json.loads(Path("again/small-run/results.json").read_text()) == first
    assert main(["status", "spec.yaml"]) == 0
    assert "missing" not in capsys.readouterr().out


def test_a_run_shows_each_row_as_it_ends_and_the_table_at_the_end(ran):
    lines = (ran / "said").read_text().splitlines()
    rows = results(ran)["rows"]
    end = next(i for i, line in enumerate(lines) if line.split()[:3] == ["Ratio", "Tuning", "Method"])
    for row in rows:
        value = plus_minus(row["metrics"]["python_topics_ppl"], None)
        (place,) = [i for i, line in enumerate(lines) if line.endswith(f"seed 0: Python topics {value}")
                    and f" {row['label']}," in line]  # fmt: skip
        assert place < end
        assert any(row["label"] in line and line.endswith(f" {value}") for line in lines[end:])
    measured = [i for i, line in enumerate(lines) if "python-topics: done" in line]
    assert lines[measured[0] + 1].startswith("tiny-gqa, "), "not behind all stages"
    assert "small-run: 4 rows from" in lines[-3] and lines[-1].endswith("report.html")


def test_a_row_that_ends_in_failure_is_shown():
    row = fake.failed("vector", "no memory left")
    assert row_line(row, fake.QUICKSTART) == "smollm2-135m, Vector, 20%, w/o tune, seed 0: failed"


def test_results_are_what_their_schema_says(finished):
    text = (finished / "out/small-run/results.json").read_bytes()
    assert Results.model_validate_json(text, strict=True).to_json().encode() == text


def test_killed_in_the_search_it_ends_with_the_same_rows(here, ran, capsys):
    process = start("spec.yaml", cwd=here)
    wait_for_trials(here, 4, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(here.glob("out/*/*")), "no report of half a run"
    assert main(["spec.yaml"]) == 0
    assert "goes on from an attempt that did not finish" in capsys.readouterr().out
    assert numbers(results(here)) == numbers(results(ran))
    broken, unbroken = (
        [(t["number"], t["value"], t["params"]) for t in found["searches"][0]["trials"] if t["state"] == "complete"]
        for found in (results(here), results(ran))
    )
    assert broken == unbroken


ENDS = {
    "a cluster's preemption": ((signal.SIGTERM,), 143, "ended by SIGTERM"),
    "an impatient user": ((signal.SIGINT, signal.SIGINT), 130, ""),
    "Ctrl-C": ((signal.SIGINT,), 130, "interrupted"),
    "a closed terminal": ((signal.SIGHUP,), 129, "ended by SIGHUP"),
}


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_interrupted_again_and_again_it_says_so_and_goes_on(here, count):
    for number, (signals, code, message) in enumerate(list(ENDS.values())[:count]):
        process = start("spec.yaml", "--set", "search.trials=60", cwd=here)
        wait_for_trials(here, 2 + 2 * number, process)
        for one in signals:
            process.send_signal(one)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == code, output
        assert message in output and "Traceback" not in output
        assert output.count("what was finished is kept, run again to go on") <= 1
        assert ("goes on from an attempt" in output) == (number > 0)
    assert list(here.glob("store/prune/*/plan.safetensors")) and not list(here.glob("out/*/*"))


@pytest.mark.slow
def test_two_runs_on_one_store_share_the_work(here):
    """A whole run twice; tests/queue/test_processes.py has the same with stages that cost nothing."""
    processes = [start("spec.yaml", "--out", f"out{n}", cwd=here) for n in range(2)]
    outputs = [finish(process) for process in processes]
    found = [json.loads((here / f"out{n}/small-run/results.json").read_text()) for n in range(2)]
    assert numbers(found[0]) == numbers(found[1])
    done = [int(count) for output in outputs for count in re.findall(r"(\d+) done\)", output)]
    assert sum(done) == len({key for row in found[0]["rows"] for key in row["stages"].values()})


def test_processes_of_one_run_share_the_work(finished, capsys):
    assert main(["spec.yaml", "--jobs", "2", *MEASURED_ANEW]) == 0
    assert "(5 cached, 4 done)" in capsys.readouterr().out
    assert {row["status"] for row in results(finished)["rows"]} == {"done"}


CRASHES = """\
from reproducer.methods.registry import Rule, register

@register("crashes", label="Crashes", source="an example", calibrated=False)
def crashes() -> Rule:
    from reproducer.pruning.statistics import Power
    return Rule((Power(2),), lambda vectors, _: vectors[Power(2)] / (1 // 0))
"""


def test_a_failing_stage_fails_its_rows_only(here, capsys):
    Path("my_crash.py").write_text(CRASHES)
    Path("spec.yaml").write_text(SPEC.replace("vector, adapruner", "my_crash:crashes"))
    assert main(["spec.yaml"]) == 1
    captured = capsys.readouterr()
    found = results(here)["rows"]
    assert {row["label"]: row["status"] for row in found} == {
        "Tiny-GQA": "done",
        "Magnitude": "done",
        "Crashes": "failed",
    }
    log = f"failed/{found[-1]['stages']['plan']}.json"
    told = f"ZeroDivisionError: integer division or modulo by zero (traceback in {log})"
    assert captured.out.count(told) == 1 and found[-1]["error"] == f"tiny-gqa Crashes 20%: {told}"
    assert "my_crash.py" in (here / "store" / log).read_text()
    assert "Traceback" not in captured.out + captured.err
    assert main(["status", "spec.yaml"]) == 0
    assert "6 stages: 1 blocked, 4 cached, 1 failed" in capsys.readouterr().out
    assert main(["report", "spec.yaml"]) == 1
    assert f"failed  tiny-gqa Crashes 20%: {told}" in capsys.readouterr().err
    Path("spec.yaml").write_text(SPEC.replace("adapruner]", "random]"))
    assert main(["spec.yaml"]) == 0


def test_a_corrupted_artifact_is_named_and_made_again(finished, capsys):
    first = results(finished)
    (plan,) = [finished / "store/prune" / row["stages"]["plan"] for row in first["rows"] if row["label"] == "Vector"]
    data = bytearray((plan / "plan.safetensors").read_bytes())
    data[-1] ^= 0xFF
    (plan / "plan.safetensors").write_bytes(data)
    assert main(["spec.yaml"]) == 0
    assert "plan.safetensors was changed or damaged" in "".join(capsys.readouterr())
    assert numbers(results(finished)) == numbers(first)


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
    assert message in captured.out and "Traceback" not in captured.out + captured.err
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


def test_check_finds_a_difference(finished, capsys):
    baseline = results(finished)
    Path("baseline.json").write_text(json.dumps(baseline))
    assert main(["check", "spec.yaml", "--against", "baseline.json"]) == 0
    assert "all 4 rows agree" in capsys.readouterr().out
    baseline["rows"][1]["metrics"]["python_topics_ppl"] *= 1.05
    Path("baseline.json").write_text(json.dumps(baseline))
    assert main(["check", "spec.yaml", "--against", "baseline.json"]) == 1
    told = capsys.readouterr().err
    assert "Magnitude" in told and "other data" not in told
    assert main(["check", "spec.yaml", "--against", "baseline.json", "--tolerance", "0.06"]) == 0
    capsys.readouterr()
    # With another Python the built-in texts are others, and so are the numbers.
    baseline["sources"][0]["digest"] = "0" * 64
    baseline["environment"]["python"] = "3.2.1"
    del baseline["rows"][2]
    Path("baseline.json").write_text(json.dumps(baseline))
    assert main(["check", "spec.yaml", "--against", "baseline.json"]) == 1
    told = capsys.readouterr().err
    assert "not in the baseline" in told and baseline["sources"][0]["name"] in told and "3.2.1" in told


def test_clean_removes_what_no_spec_needs(finished, capsys):
    Path("other.yaml").write_text(
        SPEC.replace("[magnitude, vector, adapruner]", "[magnitude]").replace("small-run", "other")
    )
    assert main(["clean", "other.yaml"]) == 0
    assert not list(finished.glob("store/search/*/*"))
    capsys.readouterr()
    assert main(["other.yaml", "--dry-run"]) == 0
    assert "0 to run" in capsys.readouterr().out


def test_clean_keeps_the_stages_of_runs_with_other_settings(finished, capsys):
    assert main(["spec.yaml", *MEASURED_ANEW]) == 0
    capsys.readouterr()
    assert main(["clean", "spec.yaml", *MEASURED_ANEW]) == 0
    assert "0 items, 0.0 MiB removed; 13 stages are needed" in capsys.readouterr().out
    assert main(["clean", "spec.yaml"]) == 0
    assert "4 items" in capsys.readouterr().out
    assert main(["spec.yaml", "--dry-run"]) == 0
    assert "0 to run" in capsys.readouterr().out


def dry_run(capsys, *arguments: str) -> tuple[dict[str, str], str, str]:
    """The queue by label, the summary, and what the estimates rest on."""
    assert main(["spec.yaml", "--dry-run", "--device", "cpu", *arguments]) == 0
    table, summary, basis = capsys.readouterr().out.split("\n\n")
    return {re.split(r"  +", line)[2]: line for line in table.splitlines()[2:]}, summary, basis


def test_a_dry_run_estimates_what_is_to_run_and_writes_nothing(here, capsys):
    queue, summary, basis = dry_run(capsys)
    assert len(queue) == 9 and all(" about " in line and "does not fit" not in line for line in queue.values())
    assert re.fullmatch(r"4 rows, 9 stages, 9 to run, about \d[\w. ]+", summary)
    assert basis.startswith("Estimates for ") and "FLOP/s" in basis and "float32" in basis
    assert sorted(path.name for path in here.iterdir()) == ["spec.yaml"]


def test_a_dry_run_on_other_devices(here, capsys):
    assert main(["spec.yaml", "--dry-run", "--on", "8xa100-80gb"]) == 0
    shown = capsys.readouterr().out
    assert "Estimates for NVIDIA A100 80 GB (SXM) (79.10 GiB of memory)" in shown
    assert "of the arithmetic and 75% of the bandwidth of its data sheet" in shown
    assert "On 8 × NVIDIA A100 80 GB (SXM): about " in shown and "critical path" in shown
    assert re.search(r"^ +8  \d.*%$", shown, re.MULTILINE)
    for wrong, why in (
        (["--on", "8xa100-80gb"], "--on plans for devices that are not here\nadd --dry-run"),
        (["--dry-run", "--on", "a100"], "'a100' names no devices"),
        (["--dry-run", "--on", "2xa100-80g"], "did you mean 'a100-80gb'?"),
    ):
        assert main(["spec.yaml", *wrong]) == 2
        assert why in capsys.readouterr().err
    assert sorted(path.name for path in here.iterdir()) == ["spec.yaml"]


@pytest.mark.parametrize(
    ("gpus", "arguments", "devices", "slots"),
    [
        (4, [], ("cuda:0", "cuda:1", "cuda:2", "cuda:3"), 4),
        (4, ["--device", "auto", "--jobs", "auto"], ("cuda:0", "cuda:1", "cuda:2", "cuda:3"), 4),
        (4, ["--device", "cuda:2"], ("cuda:2",), 1),
        (64, [], tuple(f"cuda:{number}" for number in range(64)), 9),  # no more than there are stages
        (1, [], ("cuda",), 1),
        (0, [], ("cpu",), 1),
    ],
)
def test_every_gpu_gets_a_stage(here, monkeypatch, gpus, arguments, devices, slots):
    """Where stages are placed; no GPU is needed, and none computes."""
    import torch

    from reproducer.cli import parse

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    given = parse(["run", "spec.yaml", *arguments])
    monkeypatch.setattr(running, "_announce", lambda *_, **__: {})
    monkeypatch.setattr(running, "run_queue", lambda stages, store, engine, devices, **_: (engine, devices))
    engine, found = running.run_stages(commands._load(given), given, None)
    assert (found, engine.slots) == (devices, slots)
    engine.close()


def test_a_stages_log_and_where_it_stands(finished, capsys):
    assert main(["status", "spec.yaml"]) == 0
    shown = capsys.readouterr().out
    key = next(line.split()[1] for line in shown.splitlines() if " search " in line)
    assert main(["logs", "spec.yaml", key]) == main(["logs", "spec.yaml", "search"]) == 0
    told = capsys.readouterr().out
    assert told.count("  started on ") == 2 and "  done in " in told
    assert main(["logs", "spec.yaml", "perplexity"]) == 2
    assert "'perplexity' fits " in capsys.readouterr().err
    assert main(["status", "spec.yaml", "--watch"]) == 0
    assert capsys.readouterr().out == "9 stages: 9 in the store, 0 to do\n"


def test_a_dry_run_estimates_what_is_left_alone(finished, capsys):
    queue, summary, _ = dry_run(capsys, "--set", "search.trials=7")
    assert sum("in the store" in line for line in queue.values()) == 6
    assert sum(" about " in line for line in queue.values()) == 3
    assert summary.startswith("4 rows, 9 stages, 3 to run, about ")


def test_a_dry_run_tells_what_does_not_fit_and_what_it_cannot_know(here, capsys, monkeypatch):
    from reproducer.stages import estimates

    here_is = estimates.Device.named("cpu")
    monkeypatch.setattr(estimates.Device, "named", lambda name: dataclasses.replace(here_is, memory=2**20))
    Path("spec.yaml").write_text(SPEC.replace("[tiny-gqa]", "[tiny-gqa, someone/model]"))
    queue, summary, _ = dry_run(capsys)
    assert re.search(r" \d+ MiB too much$", queue["tiny-gqa Vector 20%: python-topics"])
    assert sum("unknown until" in line for line in queue.values()) >= 8
    assert re.search(r"8 rows, 18 stages, 18 to run, at least \d", summary)
    assert re.search(r"Too large for it: tiny-gqa.*: needs \d+ MiB of 1 MiB, \d+ MiB too much$", summary, re.M)


def test_a_dry_run_with_nothing_left_to_run_measures_nothing(finished):
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
        "import resource, socket, sys; from reproducer.cli import main\n"
        "def refuse(*_): raise AssertionError('a dry run asks no network')\n"
        "socket.socket.connect = refuse\n"
        "code = main(['spec.yaml', '--dry-run'])\n"
        "heavy = [name for name in ('optuna', 'peft', 'datasets', 'lm_eval') if name in sys.modules]\n"
        "print(code, heavy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    began = time.monotonic()
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    code, heavy, kilobytes = shown.splitlines()[-1].split()
    assert (code, heavy) == ("0", "[]") and int(kilobytes) < 2 << 20, "of weights of 13 GB, none is made"
    assert "9 to run, about " in shown
    assert time.monotonic() - began < 60  # seconds on a machine with nothing else to do


def test_a_run_that_will_take_days_says_what_it_needs_before_it_starts(here, capsys, monkeypatch):
    monkeypatch.setattr(running, "run_queue", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    assert main([str(SPECS / "table1.yaml"), "--device", "cpu"]) == 130
    _, first, *more = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"table1: \d+ stages to run, about \d+ h .* on this device", first)
    told = "\n".join(more)
    assert "from the network: " in told and "--profile small or --profile tiny" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such.yaml"], "no-such.yaml"),
        (["stauts", "spec.yaml"], "did you mean 'status'"),
        (["spec.yaml", "--profile", "tinny"], "tinny"),
        (["spec.yaml", "--set", "prune.ratio"], "--set"),
        (["spec.yaml", "--device", "abacus"], "'abacus' is no device"),
        (["spec.yaml", "--dry-run", "--device", "abacus"], "'abacus' is no device"),
        (["spec.yaml", "--jobs", "0"], "argument --jobs: '0' is no number of stages"),
        (["check", "spec.yaml", "--against", "nothing.json"], "nothing.json"),
    ],
)
def test_a_wrong_command_line_exits_2(here, capsys, arguments, message):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err


def test_lists(capsys):
    for command in (["methods"], ["models"], ["specs", str(SPECS)]):
        assert main(command) == 0
    shown = capsys.readouterr().out
    names = ("llm-pruner-mix", "adapruner", "smollm2-135m", "llama-7b", "table1.yaml", "profiles: paper, small, tiny")
    assert all(name in shown for name in names)


def test_a_report_before_the_run_says_that_nothing_ran_yet(here):
    assert main(["report", "spec.yaml"]) == 0
    found = results(here)
    assert {row["status"] for row in found["rows"]} == {"missing"}
    text = (here / "out/small-run/report.md").read_text()
    assert "not run" in text and "| failed" not in text


WRONG_NAMES = """\
name: wrong
models: [tiny-gqa, tinny]
methods: [magnitde, vektor]
recovery: [none, loora]
evaluate: {perplexity: [python-topic, python-docstring], tasks: [quizz, no-such-task]}
"""


def test_all_wrong_names_are_told_in_one_round(here, capsys):
    Path("spec.yaml").write_text(WRONG_NAMES)
    assert main(["spec.yaml", "--dry-run"]) == 2
    told = capsys.readouterr().err
    wrong = ("tinny", "magnitde", "vektor", "loora", "python-topic", "python-docstring", "quizz", "no-such-task")
    assert all(f"'{name}'" in told for name in wrong) and len(told.splitlines()) == len(wrong)
    assert len(told) < 4000, "lists of names are capped"


def test_specs_survives_a_file_that_is_none(here, capsys):
    Path("notes.yaml").write_text("- just\n- a list\n")
    assert main(["specs", "."]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert any("notes.yaml" in line and "cannot be read" in line for line in shown)
    assert any("spec.yaml" in line and " 4 " in line for line in shown)


def test_evaluate_makes_a_table_of_any_models(here, capsys):
    """In a process and in Python the same numbers; a folder as the catalogue."""
    import reproducer
    from reproducer.models.load import load_model

    assert main(["evaluate", "tiny-gqa", "--perplexity", "python-topics", "--tasks", "quiz", "--limit", "4"]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    (folder,) = Path("store/model").iterdir()
    assert main(["evaluate", str(folder), "tiny", "--perplexity", "python-topics"]) == 0
    again, other = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert again[1:3] == row[1:3] and other[1:3] != row[1:3]
    told = []
    found = reproducer.evaluate(
        *load_model(folder),
        perplexity=["python-topics"],
        tasks=["quiz"],
        limit=4,
        progress=lambda *state: told.append(state),
    )
    assert [f"{found['python-topics']:.2f}", f"{100 * found['quiz']:.2f}"] == row[2:]
    assert {text for *_, text in told} == {"python-topics", "quiz"}


def test_what_python_and_a_shell_tell_of_the_package():
    """A notebook is not frozen by a plan, and completion finds what there is."""
    import reproducer
    from tests.helpers import tiny

    model, told = tiny(), []
    plan = reproducer.prune(model, "magnitude", ratio=0.1, progress=lambda *state: told.append(state))
    assert "\n" not in repr(plan) and len(repr(plan)) < 200 and repr(plan) in plan.summary()
    assert plan.summary().count("\n") == 2 + len(plan.units)
    assert {"Plan", "__version__", "evaluate", "export", "load_spec", "prune"} <= set(dir(reproducer))
    shown = [
        subprocess.run([sys.executable, "-m", *words, "--version"], capture_output=True, text=True, check=True).stdout
        for words in (["reproducer"], ["reproducer.cli"])
    ]
    assert shown == 2 * [f"reproducer {reproducer.__version__}\n"]
