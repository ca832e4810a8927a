"""Zero-shot tasks: which rows each one reads, which metric its column shows, and whether the rows are sound.

Prompts and scores are those of lm-eval's own task files (0.4.13); `quiz` is the one task that the package brings.
Any other task that lm-eval knows can be named as well, with its own metric and its own data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from reproducer.data.sources import Rows, Source, find_source
from reproducer.errors import UserError, nearest
from reproducer.spec import Label, Name, Named

QUIZ = "quiz"  # its rows are the form of a user's own task
TASK_FILES = (".jsonl", ".jsonl.gz")
MARGIN = "margin"
"""A score of tasks with choices, beside lm-eval's own: the right choice's log-likelihood minus the best wrong one's."""
ACCURACIES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "acc_all", "exact_match")


class TaskSpec(Named):
    """An entry of `evaluate.tasks`: its bare name, or with what it differs in.

    The path of a .jsonl file is the name of a task of one's own. Its rows have a `question`, two or more `choices`, and
    the `answer`, which is the index of the right choice.

    Attributes:
        metric: the score that the column shows; None: the catalogue's choice, else the task's first.
        data: the rows, as `org/dataset[:configuration[:split]]` or a .jsonl file; None: the task's own data set.
        label: the heading of the column.
    """

    metric: Name | None = None
    data: Name | None = None
    label: Label | None = None


@dataclass(frozen=True)
class Task:
    """A task as it is measured.

    Attributes:
        name: lm-eval's name, or that of a file.
        label: the heading of its column.
        metric: the score that the column shows.
        metrics: the names of all scores that it has, and whether higher is better.
        source: the rows.
        choices: it is scored by comparing the likelihoods of choices, so that its items have margins.
        form: lm-eval's name of the task whose prompts and scores it has; None: its own name.
    """

    name: str
    label: str
    metric: str
    metrics: Mapping[str, bool]
    source: Source
    choices: bool = True
    form: str | None = None

    @property
    def higher_is_better(self) -> bool:
        return self.metrics[self.metric]

    @property
    def is_accuracy(self) -> bool:
        """Whether the shown score is a share of 1, as that of other tasks is with which it may be averaged."""
        return self.metric.partition(",")[0] in ACCURACIES

    @property
    def margin_unit(self) -> Literal["nats", "nats/character", "nats/byte"]:
        """Of its margins, which divide log-likelihoods by what the shown metric divides them by."""
        match self.metric.partition(",")[0]:
            case "acc_norm":
                return "nats/character"
            case "acc_bytes":
                return "nats/byte"
        return "nats"

    def identity(self) -> dict[str, Any]:
        """What determines the task, in JSON values for a stage's key, with nothing read."""
        return {"task": self.name, "metric": self.metric, "source": self.source.identity()}

    def fingerprints(self) -> dict[str, str]:
        """Today's fingerprint of the rows, without parsing them, by the task's name."""
        return {self.name: self.source.fingerprint()}

    def rows(self) -> Rows:
        """The rows; those of the catalogue's tasks are checked for the fields that the task needs and their labels.

        Raises:
            DataError: not found or damaged; a missing field or a label out of range, with file, line and field.
        """
        rows = self.source.read()
        if fields := _FIELDS.get(self.form or self.name):
            for index, row in enumerate(rows.rows):
                _check(rows, index, row, fields)
        return rows


def _task(name: str, label: str, metrics: str, *source: str | None) -> Task:
    known = dict.fromkeys(metrics.split(), True)
    return Task(name, label, next(iter(known)), known, Source(*source))  # type: ignore[arg-type]


# The metric that LLM-Pruner's tables show stands first. The split is the one that lm-eval's task file evaluates.
_TASKS = (
    _task("boolq", "BoolQ", "acc", "aps/super_glue", "boolq", "validation", "question"),
    _task("piqa", "PIQA", "acc acc_norm", "baber/piqa", "default", "validation", "goal"),
    _task("hellaswag", "HellaSwag", "acc_norm acc", "Rowan/hellaswag", "default", "validation", "ctx_a"),
    _task("winogrande", "WinoGrande", "acc", "allenai/winogrande", "winogrande_xl", "validation", "sentence"),
    _task("arc_easy", "ARC-e", "acc acc_norm", "allenai/ai2_arc", "ARC-Easy", "test", "question"),
    _task("arc_challenge", "ARC-c", "acc_norm acc", "allenai/ai2_arc", "ARC-Challenge", "test", "question"),
    _task("openbookqa", "OBQA", "acc_norm acc", "allenai/openbookqa", "main", "test", "question_stem"),
    _task("quiz", "Quiz", "acc acc_norm", "builtin/quiz", None, "test", "question"),
)
TASKS: Mapping[str, Task] = {task.name: task for task in _TASKS}


def resolve_task(entry: TaskSpec | str) -> Task:
    """The task that an entry of a spec stands for, with no data read.

    lm-eval is imported for tasks that are not in the catalogue.

    Raises:
        UserError: no such task or metric, with the nearest names; a task that cannot run here, with the reason; data
            of no known kind, or a file that does not exist.
    """
    entry = TaskSpec(name=entry) if isinstance(entry, str) else entry
    data = entry.data
    if entry.name.endswith(TASK_FILES) and data is None:
        data, stem = entry.name, Path(entry.name).name.partition(".")[0]
        task = replace(TASKS[QUIZ], name=stem, label=stem, form=QUIZ)
    else:
        task = TASKS.get(entry.name) or _lm_eval_task(entry.name, data is not None)
    if data is not None:
        source = find_source("data of a task", data, {}, task.source.split, "", endings=TASK_FILES)
        task = replace(task, source=source)
    if entry.metric is not None:
        # of a task with several filters, the bare name means the first
        shown = next((name for name in task.metrics if entry.metric in (name, name.partition(",")[0])), None)
        if shown is None:
            message = f"task '{task.name}' has no metric '{entry.metric}'"
            raise UserError(message, nearest(entry.metric, list(task.metrics)))
        task = replace(task, metric=shown)
    return replace(task, label=entry.label or task.label)


def _lm_eval_task(name: str, own_data: bool) -> Task:
    from reproducer.data import lm_eval_tasks

    try:
        metrics, source, choices = lm_eval_tasks.task_facts(name, own_data)
    except UserError as error:
        near = nearest(name, list(TASKS))
        raise UserError(error.message, near if near.startswith("did you") else error.hint) from None
    return Task(name, name, next(iter(metrics)), metrics, source, choices)


@dataclass(frozen=True)
class _Fields:
    """What the rows of a task hold: fields that are texts, one with choices, and the label with its possible values.

    Without such values choices have `text` and `label`, and a row's label is one of the latter; or they are a list, and
    it is an index of that.
    """

    texts: str
    label: str
    labels: Sequence[Any] = ()
    choices: str | None = None
    indexed: bool = False


_FIELDS: Mapping[str, _Fields] = {
    "boolq": _Fields("passage question", "label", [0, 1]),
    "piqa": _Fields("goal sol1 sol2", "label", [0, 1]),
    "hellaswag": _Fields("activity_label ctx_a ctx_b", "label", ["0", "1", "2", "3"], "endings"),
    "winogrande": _Fields("sentence option1 option2", "answer", ["1", "2"]),
    "arc_easy": _Fields("question", "answerKey", choices="choices"),
    "arc_challenge": _Fields("question", "answerKey", choices="choices"),
    "openbookqa": _Fields("question_stem", "answerKey", choices="choices"),
    QUIZ: _Fields("question", "answer", choices="choices", indexed=True),
}


def _check(rows: Rows, index: int, row: Mapping[str, Any], fields: _Fields) -> None:
    """DataError for a row that does not hold what the task needs."""
    labels, choices = fields.labels, fields.choices
    for field in (*fields.texts.split(), *([choices] if choices else []), fields.label):
        if field not in row:
            rows.fail(index, field, f"is missing; there are: {', '.join(row)}")
    for field in fields.texts.split():
        if not isinstance(row[field], str):
            rows.fail(index, field, f"is not text: {row[field]!r}")
    if "_" not in row.get("sentence", "_"):
        rows.fail(index, "sentence", "has no gap ('_')")
    if choices and labels:
        _check_texts(rows, index, choices, row[choices], len(labels))
    elif choices and fields.indexed:
        _check_texts(rows, index, choices, row[choices])
        labels = range(len(row[choices]))
    elif choices:
        if not isinstance(row[choices], Mapping) or not {"text", "label"} <= row[choices].keys():
            rows.fail(index, choices, "is not an object of 'text' and 'label'")
        labels = row[choices]["label"]
        _check_texts(rows, index, "choices.label", labels)
        _check_texts(rows, index, "choices.text", row[choices]["text"], len(labels))
    label = row[fields.label]
    if type(label) is not type(labels[0]) or label not in labels:  # True and 1.0 are equal to 1
        rows.fail(index, fields.label, f"is {label!r}; a label is one of {', '.join(map(repr, labels))}")


def _check_texts(rows: Rows, index: int, field: str, value: Any, count: int | None = None) -> None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        rows.fail(index, field, f"is not a list of texts: {value!r}")
    if len(value) < 2 or len(value) != (count or len(value)):
        rows.fail(index, field, f"has {len(value)} choices, not {count or 'two or more'}")
    if "" in value:
        rows.fail(index, field, f"holds an empty choice: {value!r}")  # acc_norm divides by its length
