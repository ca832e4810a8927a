"""Cost against quality, and the controls that a report explains."""

import re

from reproducer.reporting.cost import BACKWARD, fronts, seen_columns, tokens
from reproducer.reporting.render import render
from reproducer.reporting.rows import lines
from reproducer.stages.results import Results
from tests.reporting.fake import ppl, row
from tests.reporting.reading import markdown

COLUMNS = [ppl("own", "Own"), ppl("far", "Far").model_copy(update={"unseen": True})]
# label -> (forward, backward, perplexity of the text that is searched on): c is dearer than a and no better
SPENT = {"a": (100, 50, 30.0), "b": (1000, 500, 20.0), "c": (400, 0, 31.0), "nothing": (0, 0, 90.0)}


def made(**more):
    rows = [row("dense", {"own_ppl": 10.0, "far_ppl": 11.0})]
    for label, (forward, backward, value) in SPENT.items():
        facts = {"label": label, "tokens": {"forward": forward, "backward": backward}}
        rows.append(row("vector", {"own_ppl": value, "far_ppl": value + 1}, **{**facts, **more.get(label, {})}))
    environment = {"python": "3", "platform": "p", "cpu": "c", "cpu_count": 2}
    return Results(spec={"name": "own"}, profile=[], environment=environment, models=[], columns=COLUMNS, rows=rows)


def test_the_front_holds_what_no_cheaper_row_beats():
    ((*points,),) = fronts(made())
    assert [(point.line.label, point.best) for point in points] == [
        ("nothing", True), ("a", True), ("c", False), ("b", True),
    ]  # fmt: skip
    assert [point.cost for point in points] == [0, 100 + BACKWARD * 50, 400, 1000 + BACKWARD * 500]


def test_what_was_not_counted_has_no_point():
    results = made(a={"tokens": None}, b={"tokens": None})
    assert tokens(lines(results.rows)[1]) is None
    assert fronts(results) == [], "two points are no front"


def test_an_unseen_text_is_in_no_mean_over_texts_and_says_so(tmp_path):
    results = made()
    assert [column.key for column in seen_columns(results)] == ["own_ppl"]
    render(results, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "Far (unseen)↓" in report and "which no row was calibrated or searched on" in report
    (line,) = re.findall(r"^\| a +\|.*$", report, re.MULTILINE)
    assert [cell.strip() for cell in line.split("|")][1:-1] == ["a", "", "30.0", "–", "31.0", "–"]
    assert re.search(r"^\| .* a +\|.*\| +100 \| +50 \|$", report, re.MULTILINE), "tokens are in the table of costs"
    assert (tmp_path / "figures" / "cost-smollm2-135m-20.png").stat().st_size > 1000


def test_each_control_that_is_there_is_explained():
    results = made(a={"control": "same-information"}, b={"control": "same-compute"})
    assert all(f"{word}:" in markdown(results) for word in ("Same information", "Same compute", "Unseen text"))
    one = markdown(made(a={"control": "same-compute"}))
    assert "Same compute:" in one and "Same information:" not in one
