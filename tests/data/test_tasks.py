import copy
from collections import Counter
from pathlib import Path

import pytest
import yaml

from reproducer.data.files import DataError
from reproducer.data.tasks import TASKS, load_task_rows, resolve_task, task_fingerprint
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
MISSING = [(task, field) for task, row in GOOD.items() for field in row if field != "idx"]
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
    rows = load_task_rows(task)
    assert list(rows.rows) == [GOOD[task]] * 2
    assert rows.fingerprint == task_fingerprint(task)


@pytest.mark.parametrize(("task", "field"), MISSING)
def test_a_missing_field_is_named_with_its_line(mirror, task, field):
    bad = {name: value for name, value in GOOD[task].items() if name != field}
    path = put(mirror, task, GOOD[task], bad)
    with pytest.raises(DataError) as error:
        load_task_rows(task)
    assert str(error.value).startswith(f"{path}:2: field '{field}' is missing")


@pytest.mark.parametrize(("task", "field", "value"), WRONG)
def test_a_wrong_value_is_named_with_its_line(mirror, task, field, value):
    path = put(mirror, task, GOOD[task], GOOD[task], {**GOOD[task], field: value})
    with pytest.raises(DataError) as error:
        load_task_rows(task)
    assert str(error.value).startswith(f"{path}:3: field '{field}'")


def test_unequal_choices(mirror):
    row = copy.deepcopy(GOOD["arc_easy"])
    row["choices"]["text"].pop()
    put(mirror, "arc_easy", row)
    with pytest.raises(DataError, match=r"1: field 'choices\.text' has 2 choices, not 3"):
        load_task_rows("arc_easy")


def test_an_unknown_task():
    with pytest.raises(UserError, match=r"(?s)unknown task 'arc_esy'.*did you mean 'arc_easy'"):
        resolve_task("arc_esy")


def test_sources_and_metrics_are_those_of_lm_eval():
    """Independent of lm-eval's code: its task files, read as plain YAML."""
    import lm_eval

    found = {}
    folder = Path(lm_eval.__file__).parent / "tasks"
    files = ["super_glue/boolq/default", "piqa/piqa", "hellaswag/hellaswag", "winogrande/default"]
    files += ["arc/arc_easy", "arc/arc_challenge", "openbookqa/openbookqa"]

    class Loader(yaml.SafeLoader):
        """A safe loader that skips lm-eval's own `!function` tags."""

    Loader.add_constructor("!function", lambda loader, node: None)
    for name in files:
        path = folder / f"{name}.yaml"
        config = yaml.load(path.read_text(), Loader)
        if "include" in config:
            config = {**yaml.load((path.parent / config["include"]).read_text(), Loader), **config}
        found[config["task"]] = config
    assert found.keys() == TASKS.keys() - {"quiz"}
    for name, config in found.items():
        source = TASKS[name].source
        assert (source.id, source.configuration) == (config["dataset_path"], config.get("dataset_name") or "default")
        assert source.split == (config.get("test_split") or config["validation_split"])
        assert TASKS[name].metric in [metric["metric"] for metric in config["metric_list"]]


# The quiz


@pytest.fixture(scope="module")
def quiz():
    return load_task_rows("quiz").rows


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


@pytest.mark.parametrize("pick", [max, min], ids=["longest", "shortest"])
@pytest.mark.parametrize("measure", [len, lambda choice: len(choice.split())], ids=["letters", "words"])
def test_length_gives_no_answer_away(quiz, pick, measure):
    """Guessing the longest (or shortest) choice, ties shared, does as well as chance would."""
    expected = 0.0
    for row in quiz:
        sizes = [measure(choice) for choice in row["choices"]]
        best = [index for index, size in enumerate(sizes) if size == pick(sizes)]
        expected += (row["answer"] in best) / len(best)
    deviation = (len(quiz) * 0.25 * 0.75) ** 0.5
    assert abs(expected - len(quiz) / 4) <= 2 * deviation


def test_the_choices_have_one_form(quiz):
    for row in quiz:
        assert row["question"].endswith("?")
        assert all(choice == choice.strip() and len(choice) <= 24 for choice in row["choices"]), row["id"]
        articles = {choice.split()[0] in ("a", "an", "the") for choice in row["choices"]}
        assert len(articles) == 1, row["id"]
