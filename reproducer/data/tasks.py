"""Zero-shot tasks: which rows each one reads, which metric its column shows, and whether the rows are sound.

The prompts are those of lm-eval's own task files (0.4.13); `quiz` is the one task that the package brings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reproducer.data.sources import Rows, Source, fingerprint, read_rows
from reproducer.errors import UserError, nearest

Metric = Literal["acc", "acc_norm"]
QUIZ_CHOICES = 4


@dataclass(frozen=True)
class TaskEntry:
    """A task of the catalogue.

    Attributes:
        name: the name in specs.
        label: the heading of its column.
        task: lm-eval's name, which is the same for all of them.
        metric: which of lm-eval's two accuracies the column shows, as LLM-Pruner's tables do.
        source: the split that lm-eval's task file evaluates.
    """

    name: str
    label: str
    task: str
    metric: Metric
    source: Source


def _task(name: str, label: str, metric: Metric, *source: str | None) -> TaskEntry:
    return TaskEntry(name, label, name, metric, Source(*source))  # type: ignore[arg-type]


_TASKS = (
    _task("boolq", "BoolQ", "acc", "aps/super_glue", "boolq", "validation", "question"),
    _task("piqa", "PIQA", "acc", "baber/piqa", "default", "validation", "goal"),
    _task("hellaswag", "HellaSwag", "acc_norm", "Rowan/hellaswag", "default", "validation", "ctx_a"),
    _task("winogrande", "WinoGrande", "acc", "allenai/winogrande", "winogrande_xl", "validation", "sentence"),
    _task("arc_easy", "ARC-e", "acc", "allenai/ai2_arc", "ARC-Easy", "test", "question"),
    _task("arc_challenge", "ARC-c", "acc_norm", "allenai/ai2_arc", "ARC-Challenge", "test", "question"),
    _task("openbookqa", "OBQA", "acc_norm", "allenai/openbookqa", "main", "test", "question_stem"),
    _task("quiz", "Quiz", "acc", "builtin/quiz", None, "test", "question"),
)
TASKS: Mapping[str, TaskEntry] = {entry.name: entry for entry in _TASKS}


def resolve_task(name: str) -> TaskEntry:
    """The task of that name, with nothing read. UserError with the nearest right name where there is none."""
    if name not in TASKS:
        raise UserError(f"unknown task '{name}'", nearest(name, list(TASKS)))
    return TASKS[name]


def task_fingerprint(name: str) -> str:
    """Today's fingerprint of a task's rows, without parsing them."""
    source = resolve_task(name).source
    return fingerprint(source.id, source.configuration, source.split)


def load_task_rows(name: str) -> Rows:
    """Read a task's rows and check each for the fields that the task file needs and for a label in range.

    Raises:
        UserError: an unknown name.
        DataError: not found or damaged; a missing field or a label out of range, with file, line and field.
    """
    source = resolve_task(name).source
    rows = read_rows(source.id, source.configuration, source.split)
    for index, row in enumerate(rows.rows):
        _CHECKS[name](_Row(rows, index, row))
    return rows


@dataclass(frozen=True)
class _Row:
    rows: Rows
    index: int
    row: Mapping[str, Any]

    def value(self, field: str) -> Any:
        if field not in self.row:
            self.rows.fail(self.index, field, f"is missing; there are: {', '.join(self.row)}")
        return self.row[field]

    def texts(self, *fields: str) -> None:
        for field in fields:
            if not isinstance(value := self.value(field), str):
                self.rows.fail(self.index, field, f"is not text: {value!r}")

    def text_list(self, field: str, value: Any, count: int | None = None) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.rows.fail(self.index, field, f"is not a list of texts: {value!r}")
        if len(value) < 2 or len(value) != (count or len(value)):
            self.rows.fail(self.index, field, f"has {len(value)} choices, not {count or 'two or more'}")
        if "" in value:
            self.rows.fail(self.index, field, f"holds an empty choice: {value!r}")  # acc_norm divides by its length
        return value

    def label(self, field: str, allowed: list[Any]) -> None:
        value = self.value(field)
        if type(value) is not type(allowed[0]) or value not in allowed:  # True and 1.0 are equal to 1
            self.rows.fail(self.index, field, f"is {value!r}; a label is one of {', '.join(map(repr, allowed))}")


def _boolq(row: _Row) -> None:
    row.texts("passage", "question")
    row.label("label", [0, 1])


def _piqa(row: _Row) -> None:
    row.texts("goal", "sol1", "sol2")
    row.label("label", [0, 1])


def _hellaswag(row: _Row) -> None:
    row.texts("activity_label", "ctx_a", "ctx_b")
    row.text_list("endings", row.value("endings"), 4)
    row.label("label", ["0", "1", "2", "3"])


def _winogrande(row: _Row) -> None:
    row.texts("sentence", "option1", "option2")
    if "_" not in row.row["sentence"]:
        row.rows.fail(row.index, "sentence", "has no gap ('_')")
    row.label("answer", ["1", "2"])


def _lettered(row: _Row, question: str) -> None:
    row.texts(question)
    choices = row.value("choices")
    if not isinstance(choices, Mapping) or not {"text", "label"} <= choices.keys():
        row.rows.fail(row.index, "choices", "is not an object of 'text' and 'label'")
    letters = row.text_list("choices.label", choices["label"])
    row.text_list("choices.text", choices["text"], len(letters))
    row.label("answerKey", letters)


def _quiz(row: _Row) -> None:
    row.texts("id", "question")
    row.text_list("choices", row.value("choices"), QUIZ_CHOICES)
    row.label("answer", list(range(QUIZ_CHOICES)))


_CHECKS: Mapping[str, Callable[[_Row], None]] = {
    "boolq": _boolq,
    "piqa": _piqa,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "arc_easy": lambda row: _lettered(row, "question"),
    "arc_challenge": lambda row: _lettered(row, "question"),
    "openbookqa": lambda row: _lettered(row, "question_stem"),
    "quiz": _quiz,
}
