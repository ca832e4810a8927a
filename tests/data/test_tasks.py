import json
from collections import Counter

import pytest

from reproducer.data import lm_eval_tasks
from reproducer.data.files import DataError
from reproducer.data.sources import Source
from reproducer.data.tasks import TASKS, TaskSpec, resolve_task
from reproducer.errors import UserError

CHOICES = {"text": ["ice", "steam", "sand"], "label": ["A", "B", "C"]}
GOOD = {
    "boolq": {"passage": "Ice is cold.", "question": "is ice cold", "idx": 0, "label": 1},
    "piqa": {"goal": "Cool a drink", "sol1": "add ice", "sol2": "add sand", "label": 0},
    "hellaswag": {
        "activity_label": "Skating",
        "ctx_a": "A girl skates.",
        "ctx_b": "she",
        "endings": ["falls.", "flies.", "sinks.", "melts."],
        "label": "3",
    },
    "winogrande": {"sentence": "Ann saw Eve so _ waved.", "option1": "Ann", "option2": "Eve", "answer": "2"},
    "arc_easy": {"question": "What is frozen water?", "choices": CHOICES, "answerKey": "A"},
    "arc_challenge": {"question": "What is frozen water?", "choices": CHOICES, "answerKey": "C"},
    "openbookqa": {"question_stem": "Frozen water is", "choices": CHOICES, "answerKey": "A"},
}
WRONG = [
    ("boolq", "label", -1),
    ("boolq", "label", True),
    ("boolq", "label", "1"),
    ("boolq", "label", 1.0),
    ("piqa", "label", 2),
    ("piqa", "goal", None),
    ("hellaswag", "label", "4"),
    ("hellaswag", "label", ""),
    ("hellaswag", "endings", ["a", "b", "c"]),
    ("hellaswag", "endings", ["a", "", "c", "d"]),
    ("winogrande", "answer", "3"),
    ("winogrande", "sentence", "no gap"),
    ("arc_easy", "answerKey", "E"),
    ("arc_challenge", "choices", ["ice", "steam"]),
    ("openbookqa", "answerKey", ""),
]


def put(mirror, task, *rows):
    source = TASKS[task].source
    return mirror(source.id, source.configuration, source.split, rows)


@pytest.mark.parametrize("task", GOOD)
def test_good_rows_come_back_as_they_are(mirror, task):
    put(mirror, task, GOOD[task], GOOD[task])
    rows = TASKS[task].rows()
    assert list(rows.rows) == [GOOD[task]] * 2
    assert TASKS[task].fingerprints() == {task: rows.fingerprint}


@pytest.mark.parametrize("task", GOOD)
def test_a_missing_field_is_named_with_its_line(mirror, task):
    for field in set(GOOD[task]) - {"idx"}:
        bad = {name: value for name, value in GOOD[task].items() if name != field}
        path = put(mirror, task, GOOD[task], bad)
        with pytest.raises(DataError) as error:
            TASKS[task].rows()
        assert str(error.value).startswith(f"{path}:2: field '{field}' is missing")


@pytest.mark.parametrize(("task", "field", "value"), WRONG)
def test_a_wrong_value_is_named_with_its_line(mirror, task, field, value):
    path = put(mirror, task, GOOD[task], GOOD[task], {**GOOD[task], field: value})
    with pytest.raises(DataError) as error:
        TASKS[task].rows()
    assert str(error.value).startswith(f"{path}:3: field '{field}'")


def test_unknown_names():
    with pytest.raises(UserError, match=r"(?s)no task 'arc_esy'.*did you mean 'arc_easy'"):
        resolve_task("arc_esy")
    with pytest.raises(UserError, match=r"(?s)no task 'sciqq'.*did you mean 'sciq'"):
        resolve_task("sciqq")
    with pytest.raises(UserError, match=r"(?s)task 'hellaswag' has no metric 'acc_nrm'.*did you mean 'acc_norm'"):
        resolve_task(TaskSpec(name="hellaswag", metric="acc_nrm"))
    with pytest.raises(UserError, match=r"(?s)unknown data of a task 'mine'.*give org/dataset.*\.jsonl"):
        resolve_task(TaskSpec(name="hellaswag", data="mine"))


def test_what_an_entry_sets_and_what_joins_the_key(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(GOOD["boolq"]) + "\n")
    entry = TaskSpec(name="hellaswag", metric="acc", data="org/set:small", label="Mine")
    task = resolve_task(entry)
    assert (task.label, task.metric, task.source) == ("Mine", "acc", Source("org/set", "small", "validation", ""))
    assert task.higher_is_better and task.is_accuracy
    assert json.loads(json.dumps(task.identity())) == task.identity()
    assert task.identity() == resolve_task(entry.model_copy(update={"label": None})).identity()
    for change in ({"metric": "acc_norm"}, {"data": None}, {"data": str(path)}):
        assert task.identity() != resolve_task(entry.model_copy(update=change)).identity()
    own = resolve_task(TaskSpec(name="piqa", data=str(path)))
    with pytest.raises(DataError, match=r"own\.jsonl:1: field 'goal' is missing"):
        own.rows()


@pytest.mark.parametrize(
    ("name", "metric", "higher", "source"),
    [
        ("sciq", "acc", True, Source("allenai/sciq", None, "test", "")),
        ("mmlu_anatomy", "acc", True, Source("cais/mmlu", "anatomy", "test", "")),
        ("lambada_openai", "perplexity", False, Source("EleutherAI/lambada_openai", "default", "test", "")),
        ("gsm8k", "exact_match,strict-match", True, Source("openai/gsm8k", "main", "test", "")),
        ("copa", "acc", True, Source("aps/super_glue", "copa", "validation", "")),
    ],
)
def test_any_task_of_lm_eval(mirror, name, metric, higher, source):
    """Its metric, and its own data set, on the mirror."""
    task = resolve_task(name)
    assert (task.label, task.metric, task.higher_is_better, task.source) == (name, metric, higher, source)
    mirror(source.id, source.configuration or "default", source.split, [{"anything": 1}])
    assert [dict(row) for row in task.rows().rows] == [{"anything": 1}]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mmlu", r"'mmlu' is a group of lm-eval's tasks\nname its tasks themselves: mmlu_stem"),
        ("lambada", r"'lambada' is a group of lm-eval's tasks\n.*: lambada_openai, lambada_standard"),
        ("wikitext", r"perplexity of whole documents\nname its text in evaluate.perplexity"),
        ("squadv2", "is a Python class"),
        ("humaneval", "runs code that the model writes"),
        ("mmmu_val_art", "images or sound"),
        ("arithmetic_1dc", r"makes its data itself.*\ngive its rows: data: PATH.jsonl"),
    ],
)
def test_tasks_that_cannot_run_here_say_why(name, message):
    with pytest.raises(UserError, match=message):
        resolve_task(name)


def test_only_choices_that_lm_eval_compares_have_margins():
    units = {name: task.margin_unit for name, task in TASKS.items() if task.choices}
    assert units["boolq"] == units["winogrande"] == "nats" and units["hellaswag"] == "nats/character"
    assert resolve_task(TaskSpec(name="piqa", metric="acc_norm")).margin_unit == "nats/character"
    assert resolve_task("sciq").choices
    for name in ("gsm8k", "lambada_openai", "truthfulqa_mc2"):  # the last one's own code scores its choices
        assert not resolve_task(name).choices


@pytest.mark.slow
def test_the_search_through_the_files_finds_what_lm_evals_own_index_does():
    from lm_eval.tasks._index import Kind, TaskIndex

    index = TaskIndex.build([lm_eval_tasks._folder()])
    theirs = {name: entry.yaml_path for name, entry in index.items() if entry.kind is not Kind.TAG}
    names = sorted(theirs)[::50]
    assert {name: lm_eval_tasks.task_file(name) for name in names} == {name: theirs[name] for name in names}


# The quiz


@pytest.fixture(scope="module")
def quiz():
    return TASKS["quiz"].rows().rows


def test_the_quiz_is_balanced_over_positions_in_any_part(quiz):
    assert len(quiz) >= 80
    for start in range(0, len(quiz), 4):
        assert sorted(row["answer"] for row in quiz[start : start + 4]) == [0, 1, 2, 3]


def test_the_quiz_repeats_nothing(quiz):
    for field in ("id", "question"):
        assert len({row[field] for row in quiz}) == len(quiz)
    assert all(len({choice.casefold() for choice in row["choices"]}) == 4 for row in quiz)
    topics = Counter(row["id"].rsplit("-", 1)[0] for row in quiz)
    assert len(topics) >= 7
    assert min(topics.values()) >= 10
