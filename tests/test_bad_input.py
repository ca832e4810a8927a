"""Bad specs, command lines and baselines: one clear message, its exit code, no traceback, nothing run or written.

What a spec's own checks and each reader refuse is tested in their rooms; here, that a user of the command meets it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reproducer.cli import main

SPEC = """\
name: bad-input
models: [tiny-gqa]
methods: [magnitude, vector]
prune: {ratio: 0.20, layers: [1, 5]}
calibration: {dataset: python-topics, samples: 2, length: 16, pool: 8}
search: {trials: 4, windows: 2}
evaluate: {perplexity: [python-topics], seq_len: 16, windows: 2}
"""
LONG = "x" * 300  # longer than any file system lets a name be
DEEP = "/".join(["x" * 200] * 30)  # longer than Linux lets a path be
NOBODY = "~nobody-of-that-name"
HALF = "holds half a character"
WRITTEN = "the report cannot be written to"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    Path("file").write_text("a file")
    return tmp_path


@pytest.fixture
def refused(here, capsys):
    """A function: the command line ends with code 2 and this in its one message; nothing was run or written."""

    def check(arguments: list[str], *parts: str) -> None:
        before = sorted(here.iterdir())
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("reproduce: ") and captured.err.count("reproduce: ") == 1
        assert "Traceback" not in captured.err and captured.out.count("\n") <= 1  # a line that tells what there is
        for part in parts:
            assert part in captured.err
        assert sorted(here.iterdir()) == before

    return check


def spec(old: str, new: str) -> None:
    assert SPEC.count(old) == 1
    Path("spec.yaml").write_text(SPEC.replace(old, new))


# the command line


@pytest.mark.parametrize(
    ("command", "out", "reason"),
    [
        (["spec.yaml"], "file", "Not a directory"),
        (["report", "spec.yaml"], "file/below", "Not a directory"),
        (["check", "spec.yaml", "--against", "b.json"], "/proc/nothing/here", "No such file or directory"),
        (["spec.yaml"], DEEP, "File name too long"),
        (["spec.yaml"], NOBODY, "home directory"),
    ],
    ids=["a file", "below a file", "cannot be made", "long path", "no such user"],
)
def test_out_that_cannot_be_written(refused, command, out, reason):
    Path("b.json").write_text('{"rows": [{"model": "tiny-gqa", "label": "x", "metrics": {}}]}')
    refused([*command, "--out", out], WRITTEN, reason)


def test_a_report_that_cannot_be_written_though_its_folder_can(here, capsys):
    Path("out/bad-input/report.md").mkdir(parents=True)
    assert main(["spec.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"reproduce: {WRITTEN} out/bad-input/report.md: Is a directory") and "Traceback" not in said
    Path("out/bad-input/report.md").rmdir()
    assert main(["spec.yaml"]) == 0
    assert "(6 cached)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "store", "reason"),
    [
        (["spec.yaml"], "file", "a file"),
        (["status", "spec.yaml"], LONG, "File name too long"),
        (["clean", "spec.yaml"], NOBODY, "home directory"),
        (["spec.yaml", "--dry-run"], f"{NOBODY}/x", "home"),
    ],
    ids=["a file", "long name", "no such user", "below no such user"],
)
def test_a_store_that_cannot_be_a_folder(refused, command, store, reason):
    refused([*command, "--store", store], "the store", "cannot be a folder", reason)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"{LONG}.yaml"], "File name too long"),
        ([LONG], "neither a subcommand nor a spec file"),
        ([f"{NOBODY}/spec.yaml"], "there is no such file"),
        (["spec.yaml", "--profile", LONG], "unknown profile"),
        (["spec.yaml", "--device", "meta"], "'meta' is no device to run on"),
        (["spec.yaml", "--device", "cuda:" + "9" * 5000], "is no device to run on"),
        (["spec.yaml", "--jobs", "1e9"], "'1e9' is no number of stages"),
        (["spec.yaml", "--engine", "locl"], "did you mean 'local'?"),
        (["spec.yaml", "--engine", "json:dumps"], "no registered engine"),
        (["check", "spec.yaml"], "--against"),
        (["specs", "file"], "there is no folder file"),
        (["spec.yaml", "--set", "title=\udc80"], "title"),
    ],
    ids=lambda value: (" ".join(value) if isinstance(value, list) else value)[:40].encode("ascii", "replace").decode(),
)  # fmt: skip
def test_wrong_arguments(refused, arguments, message):
    refused(arguments, message)


# specs


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bad-input", LONG, "spec.yaml:1: name: should be no longer than 100 characters"),
        ("[python-topics]", f'["{NOBODY}/x.txt"]', "spec.yaml:7: evaluate.perplexity[0]: " + NOBODY),
        ("dataset: python-topics", f'dataset: "{NOBODY}/x.jsonl"', "spec.yaml:5: calibration.dataset: " + NOBODY),
        ("tiny-gqa", f'"{NOBODY}/model"', "spec.yaml:2: models[0]: "),
        ("name: bad-input", 'name: bad-input\ntitle: "\\uD83D"', f"spec.yaml:2: title: {HALF}"),
        ("seq_len: 16", "seq_len: " + 5000 * "9", "spec.yaml:7: evaluate.seq_len: "),
        ("name: b", "recovery: {name: lora, rank: 1000000000}\nname: b", "spec.yaml:1: recovery.rank: should be 4096"),
        ("name: b", "recovery: {name: lora, dataset: alpcaa}\nname: b", "spec.yaml:1: recovery: unknown instruction"),
        ("magnitude", "{name: magnitude, parameters: {p: -1}}", "spec.yaml:3: methods[0].parameters: magnitude's p"),
        ("magnitude", "{name: magnitude, search: {trials: 9}}", "spec.yaml:3: methods[0].search: "),
    ],
    ids=lambda value: value[:30].encode("ascii", "replace").decode(),
)  # fmt: skip
def test_a_spec_that_cannot_work(refused, old, new, message):
    spec(old, new)
    refused(["spec.yaml"], message)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ratio: 0.20", "ratio: 0.99", "spec.yaml:4: prune: a ratio of 0.99 cannot be reached: layers 1 to 4 hold"),
        ("vector", "{name: vector, prune: {ratio: 0.9}}", "spec.yaml:3: methods[1].prune: a ratio of 0.9 cannot"),
        ("[1, 5]", "[1, 9]", "spec.yaml:4: prune: layers to prune: 1 to 8; the model has layers 0 to 5"),
    ],
)  # fmt: skip
def test_a_cut_that_no_choice_can_reach_is_told_before_anything_runs(refused, old, new, message, dry):
    spec(old, new)
    refused(["spec.yaml", *dry], message)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_quantised_model_is_told_before_anything_runs(refused, here, dry):
    Path("model").mkdir()
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}
    Path("model/config.json").write_text(json.dumps(config))
    spec("tiny-gqa", "./model")
    refused(["spec.yaml", *dry], "spec.yaml:2: models[0]", "config.json: the weights are quantised (gptq, 4 bits)")


# baselines


def rows(**changed: object) -> bytes:
    row = {"model": "tiny-gqa", "label": "Magnitude", "ratio": 0.2, "metrics": {"python_topics_ppl": 1.0}}
    return json.dumps({"rows": [row | changed]}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"rows": [null]}', "rows.0"),
        (b"{}", "rows: "),
        (b'{"rows": []}', "has no rows to compare with"),
        (rows(metrics={"python_topics_ppl": "1.0"}), "rows.0.metrics.python_topics_ppl"),
        (b'{"rows": [{"metrics": {"a": ' + b"9" * 5000 + b"}}]}", "no results.json"),
        (b"", "no results.json"),
        (b'{"rows": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "no results.json"),
        (b'{"rows": [{"model": "\\ud800", "label": "l", "metrics": {}}]}', "no results.json"),
    ],
    ids=lambda value: value[:40].decode("ascii", "replace") if isinstance(value, bytes) else "",
)  # fmt: skip
def test_a_baseline_that_is_none(refused, content, message):
    Path("baseline.json").write_bytes(content)
    refused(["check", "spec.yaml", "--against", "baseline.json"], "the baseline baseline.json", message)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nothing.json", "No such file"),
        (".", "Is a directory"),
        (f"{LONG}.json", "too long"),
        (f"{NOBODY}/b.json", "home"),
    ],
    ids=["missing", "a folder", "long name", "no such user"],
)
def test_a_baseline_that_cannot_be_read(refused, path, reason):
    refused(["check", "spec.yaml", "--against", path], f"the baseline {path} cannot be read", reason)


@pytest.mark.parametrize("tolerance", ["-1", "nan", "1e999", "x"])
def test_a_tolerance_that_would_pass_or_fail_whatever_is_measured(refused, tolerance):
    Path("baseline.json").write_bytes(rows())
    arguments = ["check", "spec.yaml", "--against", "baseline.json", f"--tolerance={tolerance}"]
    refused(arguments, f"'{tolerance}' is no tolerance: a number from 0 on")


# data


BAD_LINES = {
    "an integer of 5,000 digits": (
        '{"text": "the sea", "n": ' + "9" * 5000 + "}",
        "own.jsonl:1: a number that cannot be read",
    ),
    "lists nested beyond Python's limit": (
        '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "own.jsonl:1: its lists and",
    ),
    "half a character": ('{"text": "the sea \\ud83d"}', "own.jsonl:1: \\ud83d is half of a surrogate pair"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_line_of_data_that_cannot_be_read_fails_what_needs_it(here, capsys, case):
    content, message = BAD_LINES[case]
    Path("own.jsonl").write_text(content + "\n")
    spec("dataset: python-topics", "dataset: ./own.jsonl")
    assert main(["spec.yaml"]) == 1
    captured = capsys.readouterr()
    assert message in captured.out and "Traceback" not in captured.out + captured.err
    found = json.loads(Path("out/bad-input/results.json").read_text())["rows"]
    assert {row["method"]: row["status"] for row in found} == {"dense": "done", "magnitude": "done", "vector": "failed"}


# the store


def test_what_a_kill_in_a_commit_leaves_is_swept(here):
    key, pid = "0123456789abcdef0123", 4194304  # above any process id
    left = [Path(f"store/work/.{key}.record.{pid}"), Path(f"store/work/.{key}.json.{pid}")]
    Path("store/work").mkdir(parents=True)
    for path in left:
        path.write_text('{"half')
    assert main(["spec.yaml"]) == 0
    assert not any(path.exists() for path in left) and not list(Path("store/work").iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_store_that_cannot_be_written(here, capsys):
    Path("store").mkdir(mode=0o555)
    assert main(["spec.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"reproduce: the store {here / 'store'} cannot be written (Permission denied)")
    assert "Traceback" not in said
