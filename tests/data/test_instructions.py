import json

import pytest

from reproducer.data.files import DataError
from reproducer.data.instructions import (
    INSTRUCTIONS,
    format_prompt,
    instruction_source,
    load_instructions,
)
from reproducer.errors import UserError

ROW = {"instruction": "Add the numbers.", "input": "1, 2", "output": "3"}


def test_the_prompt_with_an_input():
    prompt, response = format_prompt(ROW)
    assert prompt.startswith("Below is an instruction that describes a task, paired with an input")
    assert prompt.endswith("\n\n### Instruction:\nAdd the numbers.\n\n### Input:\n1, 2\n\n### Response:\n")
    assert response == "3"


def test_rows_and_limit(mirror):
    rows = [{**ROW, "output": str(i), "extra": i} for i in range(5)]
    mirror("tatsu-lab/alpaca", "default", "train", rows)
    found = load_instructions("alpaca", limit=3)
    assert found == [{**ROW, "output": str(i)} for i in range(3)]
    assert instruction_source("alpaca").fingerprint() == INSTRUCTIONS["alpaca"].read().fingerprint
    assert len(load_instructions("alpaca")) == len(load_instructions("alpaca", limit=10**30)) == 5


@pytest.mark.parametrize("field", ROW)
def test_a_missing_field(tmp_path, field):
    path = tmp_path / "own.jsonl"
    bad = {name: value for name, value in ROW.items() if name != field}
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(DataError, match=rf"own\.jsonl:2: field '{field}' is missing"):
        load_instructions(str(path))


def test_unknown_names(tmp_path):
    with pytest.raises(UserError, match=r"(?s)unknown instruction data 'alpacca'.*did you mean 'alpaca'"):
        instruction_source("alpacca")
    with pytest.raises(UserError, match=r"own\.jsonl does not exist"):
        instruction_source(str(tmp_path / "own.jsonl"))
    with pytest.raises(UserError, match="unknown instruction data"):
        instruction_source("own.txt")
    assert instruction_source("org/set").split == "train"
