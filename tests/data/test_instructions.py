import json

import pytest

from reproducer.data.files import DataError
from reproducer.data.instructions import (
    INSTRUCTIONS,
    format_prompt,
    instructions_fingerprints,
    load_instructions,
    resolve_instructions,
)
from reproducer.errors import UserError

ROW = {"instruction": "Add the numbers.", "input": "1, 2", "output": "3"}


def test_the_prompt_with_an_input():
    prompt, response = format_prompt(ROW)
    assert prompt.startswith("Below is an instruction that describes a task, paired with an input")
    assert prompt.endswith("\n\n### Instruction:\nAdd the numbers.\n\n### Input:\n1, 2\n\n### Response:\n")
    assert response == "3"


def test_the_prompt_without_an_input():
    prompt, _ = format_prompt({**ROW, "input": ""})
    assert "### Input" not in prompt
    assert "paired with" not in prompt
    assert prompt.endswith("request.\n\n### Instruction:\nAdd the numbers.\n\n### Response:\n")


def test_rows_and_limit(mirror):
    rows = [{**ROW, "output": str(i), "extra": i} for i in range(5)]
    mirror("tatsu-lab/alpaca", "default", "train", rows)
    found = load_instructions("alpaca", limit=3)
    assert found == [{**ROW, "output": str(i)} for i in range(3)]
    assert instructions_fingerprints("alpaca") == {"alpaca": INSTRUCTIONS["alpaca"].read().fingerprint}
    assert len(load_instructions("alpaca")) == len(load_instructions("alpaca", limit=10**30)) == 5


@pytest.mark.parametrize("field", ROW)
def test_a_missing_field(tmp_path, field):
    path = tmp_path / "own.jsonl"
    bad = {name: value for name, value in ROW.items() if name != field}
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(DataError, match=rf"own\.jsonl:2: field '{field}' is missing"):
        load_instructions(str(path))


def test_a_row_of_nulls(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(dict.fromkeys(ROW)) + "\n")
    with pytest.raises(DataError, match=r"own\.jsonl:2: field 'instruction' is not text: None"):
        load_instructions(str(path))
    path.write_text(json.dumps(ROW) + "\nnull\n")
    with pytest.raises(DataError, match=r"own\.jsonl:2: a row must be a JSON object, this is null"):
        load_instructions(str(path))


def test_an_empty_file(tmp_path):
    path = tmp_path / "own.jsonl"
    path.touch()
    with pytest.raises(DataError, match=r"own\.jsonl: the file is empty"):
        load_instructions(str(path))


def test_unknown_names(tmp_path):
    with pytest.raises(UserError, match=r"(?s)unknown instruction data 'alpacca'.*did you mean 'alpaca'"):
        resolve_instructions("alpacca")
    with pytest.raises(UserError, match=r"own\.jsonl does not exist"):
        resolve_instructions(str(tmp_path / "own.jsonl"))
    with pytest.raises(UserError, match="unknown instruction data"):
        resolve_instructions("own.txt")
    assert resolve_instructions("org/set")["split"] == "train"


def test_the_builtin_instructions():
    rows = load_instructions("builtin-instructions")
    assert len(rows) >= 60
    assert len({(row["instruction"], row["input"]) for row in rows}) == len(rows)
    assert 10 <= sum(bool(row["input"]) for row in rows) <= len(rows) - 10
    assert all(row["instruction"] and row["output"] for row in rows)
    assert resolve_instructions("builtin-instructions") == INSTRUCTIONS["builtin-instructions"].identity()
