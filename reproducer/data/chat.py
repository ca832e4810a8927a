"""Rows of chats and instructions: which fields say what a model reads, and what it should answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reproducer.data.sources import Rows

Pair = tuple[str, str]
"""What a model reads, and the response that it should give."""

INSTRUCTION = ("instruction", "input", "output")


@dataclass(frozen=True)
class Shape:
    """The fields of a data set's rows: what is asked, and what is answered.

    `messages`: a chat in both. `instruction`, `input`, `output`: Alpaca's, in its prompt format. Two others: a prompt
    and its completion, texts or messages. One: a text, all of which is learned.
    """

    fields: tuple[str, ...]

    def pairs(self, rows: Rows, tokenizer: Any, limit: int | None = None) -> list[Pair]:
        """What is learned of each row: of a chat every answer, after all that is said before it.

        Raises:
            DataError: a field is missing or of another kind, with file and line; a chat for a tokenizer without a
                template.
        """
        return [pair for index in range(len(rows))[:limit] for pair in self._of(rows, index, tokenizer)]

    def texts(self, rows: Rows, tokenizer: Any) -> list[str]:
        """Each row as one text; raises as `pairs`."""
        if self.fields == ("messages",):
            return [_rendered(tokenizer, messages, rows, index) for index, messages in self._chats(rows)]
        return ["".join(pair) for pair in self.pairs(rows, tokenizer)]

    def _chats(self, rows: Rows) -> Iterator[tuple[int, list[Any]]]:
        for index, row in enumerate(rows.rows):
            yield index, _messages(rows, index, "messages", row.get("messages"))

    def _of(self, rows: Rows, index: int, tokenizer: Any) -> list[Pair]:
        row = rows.rows[index]
        for field in self.fields:
            if field not in row:
                rows.fail(index, field, f"is missing; there are: {', '.join(row)}")
        if self.fields == ("messages",):
            messages = _messages(rows, index, "messages", row["messages"])
            return _answers(tokenizer, messages, 1, rows, index)
        if all(isinstance(row[field], list) for field in self.fields):
            asked, answered = (_messages(rows, index, field, row[field]) for field in self.fields)
            return _answers(tokenizer, [*asked, *answered], len(asked), rows, index)
        for field in self.fields:
            if not isinstance(row[field], str):
                rows.fail(index, field, f"is not text: {row[field]!r}")
        if self.fields == INSTRUCTION:
            return [format_prompt(row)]
        *prompt, answer = (row[field] for field in self.fields)
        return [("".join(prompt), answer)]


SHAPES = tuple(map(Shape, (("messages",), INSTRUCTION, ("prompt", "completion"), ("text",))))


def shape_of(rows: Rows, field: str) -> Shape | None:
    """What makes text of rows whose column `field` is not there; None: it is, or nothing does."""
    first = rows.rows[0]
    if field in first:
        return None
    return next((shape for shape in SHAPES if all(name in first for name in shape.fields)), None)


def learned_shape(rows: Rows, fields: str) -> Shape:
    """The fields that are learned from: named, as in `question,answer`, or found in the first row; else Alpaca's."""
    if fields:
        return Shape(tuple(fields.split(",")))
    first = rows.rows[0]
    return next((shape for shape in SHAPES if all(name in first for name in shape.fields)), Shape(INSTRUCTION))


def format_prompt(row: Mapping[str, str]) -> Pair:
    """One row in the prompt format of Stanford Alpaca."""
    if row["input"]:
        task = "an instruction that describes a task, paired with an input that provides further context"
        body = f"### Instruction:\n{row['instruction']}\n\n### Input:\n{row['input']}"
    else:
        task = "an instruction that describes a task"
        body = f"### Instruction:\n{row['instruction']}"
    prompt = f"Below is {task}. Write a response that appropriately completes the request.\n\n{body}\n\n### Response:\n"
    return prompt, row["output"]


def _messages(rows: Rows, index: int, field: str, value: Any) -> list[Any]:
    """A chat; DataError for what is none."""
    if not isinstance(value, list) or not all(
        isinstance(message, Mapping) and {"role", "content"} <= {*message} for message in value
    ):
        rows.fail(index, field, f"is no list of messages with 'role' and 'content': {value!r}")
    return list(value)


def _answers(tokenizer: Any, messages: Sequence[Any], first: int, rows: Rows, index: int) -> list[Pair]:
    """Every message of the assistant from `first` on, with all before it as the template renders it."""
    pairs = []
    for place in range(first, len(messages)):
        if messages[place]["role"] == "assistant":
            full = _rendered(tokenizer, messages[: place + 1], rows, index)
            asked = _rendered(tokenizer, messages[:place], rows, index, add_generation_prompt=True)
            while not full.startswith(asked):  # a template may render earlier messages otherwise than the last
                asked = asked[:-1]
            pairs.append((asked, full[len(asked) :]))
    return pairs


def _rendered(tokenizer: Any, messages: Sequence[Any], rows: Rows, index: int, **options: Any) -> str:
    """A chat by the tokenizer's template, without the beginning that the tokenizer puts before any text itself."""
    if not getattr(tokenizer, "chat_template", None):
        rows.fail(
            index,
            "messages",
            "is a chat, and the model's tokenizer has no chat template to write one; "
            "give rows of `prompt` and `completion`, or of `text`",
        )
    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except Exception as error:  # whatever the template raises: roles that do not alternate, say
        rows.fail(index, "messages", f"does not suit the tokenizer's chat template: {error}")
    begin = tokenizer.bos_token
    return text.removeprefix(begin) if begin and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else text
