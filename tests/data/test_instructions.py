"""Rows of recovery, in every shape that people bring."""

import json

import pytest

from reproducer.data.chat import format_prompt
from reproducer.data.files import DataError
from reproducer.data.instructions import INSTRUCTIONS, instruction_source, load_instructions
from reproducer.data.text import load_text, windows
from reproducer.errors import UserError
from reproducer.models.tokenizer import byte_tokenizer

ROW = {"instruction": "Add the numbers.", "input": "1, 2", "output": "3"}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def chatting():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_the_prompt_with_an_input():
    prompt, response = format_prompt(ROW)
    assert prompt.startswith("Below is an instruction that describes a task, paired with an input")
    assert prompt.endswith("\n\n### Instruction:\nAdd the numbers.\n\n### Input:\n1, 2\n\n### Response:\n")
    assert response == "3"


def test_rows_and_limit(mirror):
    rows = [{**ROW, "output": str(i), "extra": i} for i in range(5)]
    mirror("tatsu-lab/alpaca", "default", "train", rows)
    found = load_instructions("alpaca", byte_tokenizer(), limit=3)
    assert found == [format_prompt({**ROW, "output": str(i)}) for i in range(3)]
    assert instruction_source("alpaca").fingerprint() == INSTRUCTIONS["alpaca"].read().fingerprint
    assert len(load_instructions("alpaca", byte_tokenizer(), limit=10**30)) == 5


def said(*contents):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]


# A row, what its fields are called in the name of the data, and what is learned of it.
SHAPES = {
    "Alpaca": (ROW, "", [format_prompt(ROW)]),
    "a chat": (
        {"messages": said("Hi", "Hello", "Who?", "Me")},
        "",
        [
            ("<s>[user] Hi\n[assistant] ", "Hello\n"),
            ("<s>[user] Hi\n[assistant] Hello\n[user] Who?\n[assistant] ", "Me\n"),
        ],
    ),
    "prompt and completion": ({"prompt": "1 + 1 =", "completion": " 2"}, "", [("1 + 1 =", " 2")]),
    "both as messages": (
        {"prompt": said("Hi"), "completion": said("Hi", "Hello")[1:]},
        "",
        [("<s>[user] Hi\n[assistant] ", "Hello\n")],
    ),
    "text": ({"text": "All of it."}, "", [("", "All of it.")]),
    "named": ({"q": "Why?", "a": "So."}, ":q,a", [("Why?", "So.")]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_rows(tmp_path, shape):
    row, fields, pairs = SHAPES[shape]
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    assert load_instructions(f"{tmp_path / 'own.jsonl'}{fields}", chatting()) == pairs * 2
    if not fields:  # and as a text to calibrate and measure on
        text = load_text(str(tmp_path / "own.jsonl"), "report").read_by(chatting())
        assert text.passages[1] == "".join(pairs[-1])
        cut = windows(load_text(str(tmp_path / "own.jsonl"), "report"), chatting(), 4)
        assert cut.flatten().tolist() == chatting()(text.joined()).input_ids[: cut.numel()]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "user"}]}, r"own\.jsonl:2: field 'messages' is no list of messages"),
        ({"text": "no chat"}, r"own\.jsonl:2: field 'messages' is missing; there are: text"),
        ({"messages": said("Hi", "Hello")}, r"own\.jsonl:1: field 'messages' is a chat, and .* no chat template"),
    ],
)
def test_chats_that_cannot_be_read(tmp_path, row, message):
    (tmp_path / "own.jsonl").write_text(json.dumps({"messages": said("Hi", "Yes")}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message):
        load_instructions(str(tmp_path / "own.jsonl"), byte_tokenizer() if "1:" in message else chatting())


@pytest.mark.parametrize("field", ROW)
def test_a_missing_field(tmp_path, field):
    path = tmp_path / "own.jsonl"
    bad = {name: value for name, value in ROW.items() if name != field}
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(DataError, match=rf"own\.jsonl:2: field '{field}' is missing"):
        load_instructions(str(path), byte_tokenizer())


def test_unknown_names(tmp_path):
    with pytest.raises(UserError, match=r"(?s)unknown instruction data 'alpacca'.*did you mean 'alpaca'"):
        instruction_source("alpacca")
    with pytest.raises(UserError, match=r"own\.jsonl does not exist"):
        instruction_source(str(tmp_path / "own.jsonl"))
    with pytest.raises(UserError, match="unknown instruction data"):
        instruction_source("own.txt")
    assert instruction_source("org/set").split == "train"
