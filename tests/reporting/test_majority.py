"""The majority class and margins in the report, and what the averages leave out."""

import random

import pytest

from reproducer.paper import load_item
from reproducer.reporting import figures
from reproducer.reporting.comparison import compare
from reproducer.stages.results import Column

from . import fake
from .reading import latex, markdown, section_of, tables

RATES = {task: 0.3 for task in fake.TASKS} | {"boolq": 0.62}


def margin(task: str, label: str, unit: str = "nats") -> Column:
    return Column(
        key=f"{task}_margin", label=f"{label} margin", kind="other", higher_is_better=True, source=task, score="margin",
        unit=unit,
    )  # fmt: skip


def with_margins(results, units=None):
    """Margins of every item, their means and columns; of right items above zero."""
    draw, rows = random.Random(5), []
    for row in results.rows:
        items, metrics = {}, dict(row.metrics)
        for task, result in row.task_scores.items():
            found = result.items
            values = [draw.expovariate(1) * (1 if item.scores["acc"] else -1) for item in found]
            metrics[f"{task}_margin"] = sum(values) / len(values)
            items[task] = [
                fake.change(item, scores=item.scores | {"margin": value})
                for item, value in zip(found, values, strict=True)
            ]
        rows.append(fake.change(row, items=items, metrics=metrics))
    columns = [margin(task, label, (units or {}).get(task, "nats")) for task, label in fake.TASKS.items()]
    return fake.change(results, rows=rows, columns=[*results.columns, *columns])


def rated(rates=RATES, left_out=(), results=None, **scores):
    """Table 1's results with majority classes, and averages over all tasks but those `left_out`."""
    results = results or fake.measured(fake.table1(), 20)
    tasks = [fake.change(task, majority=rates.get(task.name)) for task in results.tasks]
    averaged = [f"{task}_acc" for task in fake.TASKS if task not in left_out]
    models = [fake.change(model, averaged=averaged) for model in results.models]
    return fake.change(results, tasks=tasks, models=models, **scores)


def text_of(results):
    return section_of(markdown(results), "Results")


def test_a_row_of_the_majority_class_and_a_mark_where_the_dense_model_is_not_above_it():
    results = rated(left_out=["boolq"])
    table = tables(results, "All measures")[0]
    *rows, last = table
    assert last["Method"] == "Majority class" and last["Ratio"] == "any" and last["Average↑"] == ""
    assert (last["BoolQ↑"], last["PIQA↑"]) == ("62.0", "30.0")
    dense = f"{100 * results.rows[0].metrics['boolq_acc']:.1f}*"
    assert [row["BoolQ↑"] for row in rows if row["BoolQ↑"].endswith("*") and "**" not in row["BoolQ↑"]] == [dense]
    assert not any(row["PIQA↑"].replace("**", "").endswith("*") for row in rows)
    text = text_of(results) + section_of(markdown(results), "All measures")
    assert "accuracy of always giving the place" in text and "An asterisk marks" in text
    assert (
        "The average leaves out BoolQ, where the dense model is not above the majority class, and is over PIQA," in text
    )
    assert latex(results).count("Majority class &") == 1


def test_nothing_is_said_of_what_is_not_known_or_not_left_out():
    plain = markdown(fake.measured(fake.table1(), 20))
    assert "ajority" not in plain and "argins" not in plain
    text = text_of(rated()) + section_of(markdown(rated()), "All measures")
    assert "Majority class" in text and "leaves out" not in text and "asterisk" not in text
    unmeasured = rated(rates={})
    assert markdown(unmeasured) == plain


@pytest.mark.parametrize(
    ("kept", "words"),
    [(["piqa"], "the majority class; of PIQA alone there is none."), ([], "; no task is left to average.")],
)
def test_why_there_is_no_average(kept, words):
    results = rated(left_out=[task for task in fake.TASKS if task not in kept])
    rows = [fake.change(row, metrics=row.metrics | {"average_acc": None}) for row in results.rows]
    results = fake.change(results, rows=rows)
    assert words in text_of(results)
    paper = compare(results)
    assert all(row.cells["average_acc"].paper is None for row in paper.rows)
    assert figures.averages(results.model_copy(update={"paper": paper}), "accuracy") is None


def test_the_papers_average_is_over_the_same_tasks():
    results = rated(left_out=["boolq", "arc_challenge"])
    five = ["piqa_acc", "hellaswag_acc", "winogrande_acc", "arc_easy_acc", "openbookqa_acc"]
    printed = next(row.metrics for row in load_item("table1").rows if row.method == "vector")
    row = next(row for row in compare(results).rows if row.method == "vector")
    assert row.cells["average_acc"].paper == pytest.approx(sum(printed[task] for task in five) / 5)
    assert row.cells["boolq_acc"].paper == printed["boolq_acc"]
    text = section_of(markdown(results), "Comparison with the paper’s Table 1")
    assert "printed accuracies of PIQA, HellaSwag, WinoGrande, ARC-e, OBQA, the tasks that ours are over." in text
    assert "the tasks that ours are over" not in markdown(rated())


def test_margins_have_a_table_of_their_own():
    units = {"hellaswag": "nats/character", "openbookqa": "nats/character", "arc_easy": "nats/byte"}
    results = with_margins(fake.measured(fake.table1(), 20), units)
    assert tables(results, "Results") == tables(fake.measured(fake.table1(), 20), "Results")
    first, second = tables(results, "All measures")
    assert first == tables(fake.measured(fake.table1(), 20), "All measures")[0]
    assert list(second[0]) == ["Ratio", "Tuning", "Method", *(f"{label}↑" for label in fake.TASKS.values())]
    assert len(second) == len(results.rows)
    dense = results.rows[0].metrics
    for label, task in (("BoolQ↑", "boolq"), ("HellaSwag↑", "hellaswag")):
        value = dense[f"{task}_margin"]
        assert float(second[0][label].replace("−", "-")) == pytest.approx(value, abs=0.5e-3)  # three digits below 1
    text = section_of(markdown(results), "All measures")
    assert "the bytes of each choice, as the accuracy is, for ARC-e" in text
    assert "the characters of each choice, as the accuracy is, for HellaSwag and OBQA" in text
    paper = compare(results)
    assert not any(key.endswith("_margin") for row in paper.rows for key in row.cells)
    assert latex(results).count("landscape") == latex(fake.measured(fake.table1(), 20)).count("landscape")
