"""The paper's numbers: against the averages and gaps that the paper derives from them, and against its text."""

import os
import re
from itertools import groupby
from pathlib import Path

import pytest

import reproducer.reporting
from reproducer.paper.catalogue import SEVEN_TASKS, Slip, items, load_item, method
from reproducer.spec import load_spec
from reproducer.stages.expand import expand

SPECS = Path(__file__).parents[2] / "specs"
TABLES = [f"table{n}" for n in (1, 2, 3, 4, 6, 7, 8, 9)]


def cells(item: str, recovery: str, label: str) -> dict[str, float]:
    found = [row for row in load_item(item).rows if (row.recovery, row.label) == (recovery, label)]
    assert len(found) == 1, (item, recovery, label)
    return found[0].metrics


def slips(item: str) -> list[Slip]:
    return [slip for slip in load_item(item).slips if "metric" in slip.where]


def test_every_item_is_there():
    figures = [f"figure{n}" for n in (1, 3, 4, 5)]
    assert set(items()) == {*TABLES, *figures, "table10", "text"}


@pytest.mark.parametrize("item", ["table1", "table2", "table4", "table8"])
def test_a_slip_with_a_place_quotes_what_is_there(item):
    for slip in slips(item):
        where = slip.where
        row = cells(item, where["recovery"], where["label"])
        if where["metric"] != "average_acc" or item in ("table2", "table8"):  # else the text alone prints it
            assert row[where["metric"]] == slip.printed
        assert slip.why.endswith(".")


def test_tables_that_repeat_a_row_repeat_it_exactly():
    seven = {key: cells("table1", "none", "LLaMA-7B")[key] for key in SEVEN_TASKS}
    for item in ("table4", "table7", "table8"):
        assert {key: cells(item, "none", "LLaMA-7B")[key] for key in SEVEN_TASKS} == seven
    tuned = {key: cells("table1", "lora", "AdaPruner")[key] for key in SEVEN_TASKS}
    for item in ("table2", "table8"):
        assert {key: cells(item, "lora", "AdaPruner")[key] for key in SEVEN_TASKS} == tuned


def test_figures_are_the_averages_of_their_tables():
    rows = {(row.recovery, row.label): row.metrics for row in load_item("figure3").rows}
    assert rows["none", "AdaPruner"] == {"average_acc": cells("table1", "none", "AdaPruner")["average_acc"]}
    models = {row.model for row in load_item("figure5").rows}
    assert models == {"vicuna-7b", "llama-7b"}


def test_the_papers_own_method_is_in_its_tables_and_named_nowhere_in_the_reports():
    assert {row.label for row in load_item("table1").rows if row.method == method().name} == {method().label}
    for file in Path(reproducer.reporting.__file__).parent.rglob("*.*"):
        if file.suffix in (".py", ".j2"):
            assert method().name not in file.read_text(encoding="utf-8").lower(), file.name


# the paper's text: its table rows are lines with tabs


@pytest.fixture(scope="module")
def paper() -> str:
    """The text of the paper, from the file or folder that REPRODUCER_PAPER names, else from ../shared/seeds."""
    place = Path(os.environ.get("REPRODUCER_PAPER") or Path(__file__).parents[3] / "shared" / "seeds")
    files = sorted(place.glob("*.txt")) if place.is_dir() else [place] if place.is_file() else []
    for file in files:
        text = file.read_text(encoding="utf-8")
        if "Table 10: Comparison of generation sentences" in text:
            return text
    pytest.skip("the paper's text is not here; set REPRODUCER_PAPER to a file with it to compare every number")


def numbers(line: str) -> tuple[str, list[float | None]]:
    """The label and the numbers at the end of a row of the text."""
    fields = [field.strip() for field in line.split("\t")]
    values: list[float | None] = []
    while fields and re.fullmatch(r"-|[\d.]+(B|G|MiB|s)?", fields[-1]):
        field = fields.pop()
        values.insert(0, None if field == "-" else float(field.rstrip("BGMis")))
    return (fields[-1] if fields else ""), values


def text_tables(text: str) -> list[list[tuple[str, list[float | None]]]]:
    runs = [list(run) for tabbed, run in groupby(text.splitlines(), lambda line: "\t" in line) if tabbed]
    return [[found for line in run if (found := numbers(line))[1]] for run in runs]


def plain(label: str) -> str:
    return re.sub(r"[$_\s]", "", label)


@pytest.mark.parametrize("item", TABLES)
def test_every_number_is_the_papers(paper, item):
    data = load_item(item)
    columns = data.columns
    rows = [row for row in data.rows if not (item == "table2" and row.method == "dense")]
    mine = [(row.label, [row.metrics[key] for key in columns]) for row in rows]
    # the text breaks Table 2 at its headings between rows, so it is looked for as one run of rows, whole and in order
    everything = [row for table in text_tables(paper) for row in table]
    theirs = [values for _, values in everything]
    starts = [
        i for i in range(len(theirs)) if theirs[i : i + len(mine)] == [values for _, values in mine]
    ]  # fmt: skip
    assert len(starts) == 1, f"the rows of {item} are not in the paper's text, in this order"
    for (label, _), (printed, _) in zip(mine, everything[starts[0] :], strict=False):
        if (item, label) != ("table9", "LLaMA-7B"):
            assert plain(printed).endswith(plain(label))
    after = everything[starts[0] + len(mine) :][:1]
    assert not after or len(after[0][1]) != len(columns) or after[0][0] not in ("Wanda", "MoreauPruner", "LoRAShear")


@pytest.mark.parametrize("item", sorted(set(items()) - {"text"}))
def test_captions_quotes_and_sentences_are_the_papers(paper, item):
    flat = re.sub(r"</?b>", "", " ".join(paper.split())).replace("exists .", "exists.")
    data = load_item(item)
    assert f"{data.item}: {data.caption}" in flat
    for quote in data.quotes:
        assert quote.removesuffix(".") in flat.replace("In particular, without", "in particular, without")
    for generation in data.generations:
        assert f"{generation.label} {' '.join(generation.text.split())}" in flat
        if generation.bold:
            assert f"<b>{generation.bold}</b>" in paper


def test_the_spec_of_table_1_has_the_papers_rows_and_our_own_beside_them():
    printed = {(row.method, row.recovery) for row in load_item("table1").rows}
    rows = expand(load_spec(SPECS / "table1.yaml")).rows
    assert {(row.method, row.recovery) for row in rows} == printed  # LoRAShear's is tuned


@pytest.mark.parametrize("number", [1, 3, 4, 6, 7])
def test_the_specs_of_the_tables_have_every_row_in_the_papers_order(number):
    spec = load_spec(SPECS / f"table{number}.yaml")
    asked = [method.name for method in spec.methods if method.label is None]
    assert [method.label for method in spec.methods if method.label] == ["AdaPruner, local search"]  # ours, beside it
    blocks = [list(of) for _, of in groupby(load_item(f"table{number}").rows, lambda row: (row.ratio, row.recovery))]
    assert len(blocks) > 1
    for block in blocks:
        printed = [row.method for row in block if row.method != "dense"]
        assert [name for name in asked if name in printed] == printed
    assert set(asked) == {row.method for block in blocks for row in block} - {"dense"}
