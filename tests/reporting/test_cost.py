"""Cost against quality, what rows saw, and cuts that are not the same."""

import re

import pytest

from reproducer.reporting.cost import BACKWARD, fronts, seen_columns, tokens, uneven, whole_costs
from reproducer.reporting.render import render
from reproducer.reporting.rows import lines
from reproducer.stages.results import Results
from tests.reporting.fake import ppl, row
from tests.reporting.reading import markdown, tables

COLUMNS = [ppl("own", "Own"), ppl("far", "Far").model_copy(update={"unseen": True})]
# label -> (forward, backward, perplexity of the text that is searched on): c is dearer than a and no better
SPENT = {"a": (100, 50, 30.0), "b": (1000, 500, 20.0), "c": (400, 0, 31.0), "nothing": (0, 0, 90.0)}


def made(**more):
    rows = [row("dense", {"own_ppl": 10.0, "far_ppl": 11.0})]
    for label, (forward, backward, value) in SPENT.items():
        sights = [{"dataset": "t_a&b", "split": "calibration", "purpose": "calibration", "samples": 4}]
        facts = {"label": label, "tokens": {"forward": forward, "backward": backward}, "saw": sights}
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
    (line,) = re.findall(r"^\| a +\|.* of .*$", report, re.MULTILINE)
    assert [cell.strip() for cell in line.split("|")][1:-1] == [
        "a",
        "",
        "4 of t\\_a&amp;b",
        "",
        "30.0",
        "31.0",
    ]
    assert re.search(r"^\| .* a +\|.*\| +100 \| +50 \|$", report, re.MULTILINE), "tokens are in the table of costs"
    assert (tmp_path / "figures" / "cost-smollm2-135m-20.png").stat().st_size > 1000
    assert "4 of t\\_a\\&b" in (tmp_path / "report.tex").read_text()


def test_each_control_that_is_there_is_explained(tmp_path):
    results = made(a={"control": "same-information"}, b={"control": "same-compute"})
    assert all(f"{word}:" in markdown(results) for word in ("Same information", "Same compute", "Unseen text"))
    one = markdown(made(a={"control": "same-compute"}))
    assert "Same compute:" in one and "Same information:" not in one


@pytest.mark.parametrize(("share", "named"), [(0.19916, []), (0.2035, []), (0.185, ["c"])])
def test_a_row_that_lost_another_share_is_named(share, named):
    results = made(c={"params_removed": share})
    block = [line for line in lines(results.rows) if line.method != "dense"]
    assert [line.label for line in uneven(block)] == named
    assert ("Not the same cut" in markdown(results)) == bool(named)


def timed():
    """Untuned rows and a tuned one, two seeds each, with times."""
    rows = [row("dense", {"own_ppl": 10.0})]
    for seed in (0, 1):
        spent = {"seed": seed, "tokens": {"forward": 1000, "backward": 500}, "deciding_seconds": 3600.0 + 3600 * seed}
        rows += [
            row("vector", {"own_ppl": 20.0}, **spent),
            row("adapruner", {"own_ppl": 19.0}, **spent),
            row("adapruner", {"own_ppl": 15.0}, **spent, recovery="lora", recovery_seconds=1800.0),
        ]
    return made().model_copy(update={"rows": rows})


def test_the_whole_cost_is_the_search_and_the_recovery():
    untuned, tuned = whole_costs(timed())
    assert (untuned.line.label, untuned.deciding, untuned.recovery) == ("Vector", 5400.0, None)
    assert (tuned.line.label, tuned.line.recovery) == ("AdaPruner", "lora"), "its untuned row says no more"
    assert (tuned.deciding, tuned.recovery) == (5400.0, 1800.0)
    flop = 2 * 6.74e9 * 1000 + 4 * 6.74e9 * 500  # forward, and twice as much backward
    assert tuned.at_7b == pytest.approx(flop / 100e12)


def test_unstructured_pruning_stands_beside_it():
    *rows, magnitude, wanda, sparsegpt = tables(timed(), "Search and recovery beside unstructured pruning")[0]
    assert [one["Method"] for one in rows] == ["Vector", "AdaPruner"]
    assert (rows[1]["Deciding"], rows[1]["Recovery"], rows[1]["Together"]) == (
        "1 h 30 min",
        "30 min 00 s",
        "2 h 00 min",
    )
    assert magnitude["Deciding, LLaMA-7B"] == "0 ms"
    expected = 2 * 6.74e9 * 128 * 2048 / 100e12
    assert wanda["Deciding, LLaMA-7B"] == sparsegpt["Deciding, LLaMA-7B"] == f"{expected:.1f} s"
    text = markdown(timed())
    assert "a search takes 12 h 30 min of that GPU" in text, "150 trials of 5 minutes"
