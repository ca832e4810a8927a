"""Bad data and settings that do not fit it, through the command line on a tiny random model.

What each reader and each measure refuses is tested beside it. Here: one message in plain words, only the rows
that need the bad data fail, nothing unfinished is kept as if it were whole, and mended data is all it takes.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from reproducer.cli import main

SPEC = """\
name: own-data
models: [tiny-gqa]
methods: [vector]
prune: {ratio: 0.20, layers: [1, 5]}
calibration: {dataset: ./calibration.jsonl, samples: 2, length: 32}
recovery: [none, {name: lora, dataset: ./instructions.jsonl, epochs: 1, batch: 4, micro_batch: 2, warmup_steps: 0}]
evaluate: {perplexity: [./report.txt], tasks: [boolq], seq_len: 32, windows: 4}
"""
PARAGRAPHS = [f"Paragraph number {n} tells of the sea, of {n} ships and of the people on board." for n in range(12)]
QUESTIONS = [
    {"passage": f"The ship has {n} masts.", "question": f"does the ship have {n + n % 2} masts", "label": 1 - n % 2}
    for n in range(6)
]
INSTRUCTIONS = [{"instruction": f"Add {n} and 2.", "input": "", "output": f"{n + 2}"} for n in range(8)]


def put_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def put_tasks(rows: list[dict]) -> None:
    put_lines(Path("mirror/aps/super_glue/boolq/validation.jsonl"), rows)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a spec on own data; all of it is sound."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRODUCER_MIRROR", str(tmp_path / "mirror"))
    Path("spec.yaml").write_text(SPEC)
    put_lines(Path("calibration.jsonl"), [{"text": paragraph} for paragraph in PARAGRAPHS])
    Path("report.txt").write_text("\n\n".join(PARAGRAPHS))
    put_lines(Path("instructions.jsonl"), INSTRUCTIONS)
    put_tasks(QUESTIONS)
    return tmp_path


def results() -> dict:
    return json.loads(Path("out/own-data/results.json").read_text())


def statuses() -> dict[tuple[str, str], str]:
    return {(row["method"], row["recovery"]): row["status"] for row in results()["rows"]}


def kept(kind: str) -> set[str]:
    """Finished stages of a kind in the store."""
    return {path.name for path in Path("store", kind).glob("*") if (path / "record.json").is_file()}


DENSE, PLAIN, TUNED = ("dense", "none"), ("vector", "none"), ("vector", "lora")


def refused(capsys: pytest.CaptureFixture, *parts: str) -> None:
    """All of these parts on the terminal, and no traceback."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    for part in parts:
        assert part in captured.out + captured.err, captured


BAD_ROWS = {
    "a missing field": ({"label": None}, "field 'label' is missing; there are: passage, question"),
    "a label out of range": ({"label": 2}, "field 'label' is 2; a label is one of 0, 1"),
    "an item longer than the context": ({"passage": "ship " * 500}, "more than the model's context of 2048"),
}


def test_a_task_of_ones_own_is_checked_before_anything_runs(here, capsys):
    row = {"question": "Is snow warm?", "choices": ["yes", "no"], "answer": 1}
    command = ["spec.yaml", "--dry-run", "--set", "evaluate.tasks=[./mine.jsonl]"]
    for bad, message in (
        ({"answer": 2}, "field 'answer' is 2; a label is one of 0, 1"),
        ({"answer": "no"}, "field 'answer' is 'no'"),
        ({"choices": ["yes"]}, "field 'choices' has 1 choices"),
        ({"choices": "yes"}, "field 'choices' is not"),
        ({"question": None}, "field 'question' is not text"),
    ):
        put_lines(Path("mine.jsonl"), [row, row | bad])
        assert main(command) == 2
        refused(capsys, f"mine.jsonl:2: {message}")
    put_lines(Path("mine.jsonl"), [row, row])
    assert main(command) == 0


@pytest.mark.parametrize("case", BAD_ROWS)
def test_one_bad_item_at_the_end_of_a_task(here, capsys, case):
    """No accuracy over the items before it, either."""
    change, message = BAD_ROWS[case]
    bad = {name: value for name, value in {**QUESTIONS[-1], **change}.items() if value is not None}
    put_tasks([*QUESTIONS[:-1], bad])
    assert main(["spec.yaml"]) == 1
    place = "item 5 of boolq" if "item" in case else "validation.jsonl:6"
    refused(capsys, place, message)
    assert set(statuses().values()) == {"failed"}
    assert not kept("zeroshot") and len(kept("perplexity")) == 3
    put_tasks(QUESTIONS)
    assert main(["spec.yaml"]) == 0
    assert set(statuses().values()) == {"done"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "instructions.jsonl: the file is empty"),
        (json.dumps(INSTRUCTIONS[0]) + "\n" + '{"instruction": "Add."}\n', "instructions.jsonl:2: field 'input'"),
    ],
)
def test_bad_instructions_fail_the_tuned_row_alone(here, capsys, content, message):
    Path("instructions.jsonl").write_text(content)
    assert main(["spec.yaml"]) == 1
    refused(capsys, message)
    assert statuses() == {DENSE: "done", PLAIN: "done", TUNED: "failed"}
    assert not kept("recovery")


def test_a_diverging_recovery_leaves_no_adapter_behind(here, capsys):
    huge = "recovery.1.learning_rate=3e37"
    assert main(["spec.yaml", "--set", huge]) == 1
    refused(capsys, "is not finite at step 2 of 2", "try a smaller learning rate")
    assert statuses() == {DENSE: "done", PLAIN: "done", TUNED: "failed"}
    assert not kept("recovery") and not list(Path("store").rglob("adapter_model.safetensors"))
    assert main(["spec.yaml"]) == 0
    assert statuses()[TUNED] == "done"


def test_data_that_is_nowhere_names_the_places_and_how_to_provide_it(here, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")

    import datasets

    def unreachable(path, *args, **options):
        raise ConnectionError(f"Couldn't reach '{path}' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    Path("spec.yaml").write_text(SPEC.replace("./report.txt", "some/where:small:dev"))
    assert main(["spec.yaml"]) == 1
    refused(
        capsys,
        "data set some/where (configuration small, split dev) was not found",
        "path:",
        f"no file {here / 'mirror/some/where/small/dev'}.jsonl[.gz]",
        "hub, revision main: ConnectionError: Couldn't reach 'some/where'",
        "to provide it:",
    )
    put_lines(Path("mirror/some/where/small/dev.jsonl"), [{"text": paragraph} for paragraph in PARAGRAPHS])
    assert main(["spec.yaml"]) == 0


def test_a_tokenizer_without_a_padding_token_serves_all_measures(here, capsys):
    """Answers in batches, instructions in micro-batches: what pads them is masked, so any token will do."""
    from reproducer.models.catalogue import resolve
    from reproducer.models.fetch import fetch, recipe

    Path("model").mkdir()
    fetch(recipe(resolve("tiny-gqa")), Path("model"), print)
    Path("spec.yaml").write_text(SPEC.replace("tiny-gqa", "./model"))
    assert main(["spec.yaml"]) == 0
    before = [row["metrics"] for row in results()["rows"]]
    config = Path("model/tokenizer_config.json")
    settings = json.loads(config.read_text())
    assert settings["pad_token"]
    config.write_text(json.dumps({name: value for name, value in settings.items() if name != "pad_token"}))
    assert main(["spec.yaml"]) == 0
    assert [row["metrics"] for row in results()["rows"]] == before
    config.write_text(json.dumps(settings | {"pad_token": None, "eos_token": None, "unk_token": None}))
    assert main(["spec.yaml"]) == 1
    refused(capsys, "the tokenizer has no padding token", 'set "pad_token" in tokenizer_config.json')


def put_other_label() -> None:
    put_tasks([*QUESTIONS[:-1], {**QUESTIONS[-1], "label": 1 - QUESTIONS[-1]["label"]}])


# What changes, how, and which stages must run again: those that read it and those that stand on them.
CHANGES = {
    "./report.txt (report)": (
        lambda: Path("report.txt").write_text("\n\n".join(PARAGRAPHS[1:])),
        {"perplexity": 3},
    ),
    "boolq": (put_other_label, {"zeroshot": 3}),
    "./instructions.jsonl": (
        lambda: put_lines(Path("instructions.jsonl"), INSTRUCTIONS[::-1]),
        {"recovery": 1, "perplexity": 1, "zeroshot": 1},
    ),
    "./calibration.jsonl (calibration)": (
        lambda: put_lines(Path("calibration.jsonl"), [{"text": text[::-1]} for text in PARAGRAPHS]),
        {"prune": 1, "recovery": 1, "perplexity": 2, "zeroshot": 2},
    ),
}


def test_changed_data_is_noticed_before_a_result_is_used_again(here, capsys):
    assert main(["spec.yaml"]) == 0
    before = finished()
    assert main(["spec.yaml"]) == 0
    assert finished() == before, "unchanged data: nothing is computed twice"
    for data, (change, again) in CHANGES.items():
        change()
        capsys.readouterr()
        assert main(["spec.yaml"]) == 0
        assert f"what it read has changed since: {data}" in capsys.readouterr().out
        after = finished()
        assert after.keys() == before.keys()
        assert Counter(kind for (kind, key), when in after.items() if when != before[kind, key]) == again
        before = after


def finished() -> dict[tuple[str, str], int]:
    """When each stage in the store was finished, by its kind and key; without what was put aside."""
    paths = [path for path in Path("store").glob("*/*/record.json") if path.parent.parent.name != "corrupt"]
    return {(path.parent.parent.name, path.parent.name): path.stat().st_mtime_ns for path in paths}
