from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproducer.reporting import axes, bars, curves, figures
from reproducer.reporting.compare import compare, load_item

from . import fake


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_do_not_overlap(places):
    moved = axes.apart(sorted(places), 0.06)
    assert len(moved) == len(places)
    assert all(b - a >= 0.06 - 1e-9 for a, b in pairwise(moved))


def test_labels_with_room_stay_where_they_are():
    assert axes.apart([0.1, 0.5, 0.9], 0.06) == pytest.approx([0.1, 0.5, 0.9])


def drawn_texts(ax):
    return [text.get_text() for text in ax.texts]


def test_search_history_shows_every_baseline_trial_and_failure():
    search = fake.search()
    (ax,) = curves.search_history(search).axes
    assert [text.split()[0] for text in drawn_texts(ax)] == ["LLM-Pruner-E2", "LLM-Pruner-E1", "Vector", "Magnitude"]
    magnitude = next(c["value"] for c in search["candidates"] if c["label"] == "Magnitude")
    assert magnitude > ax.get_ylim()[1] and drawn_texts(ax)[-1].endswith("↑"), "far above the trials: named at the top"
    assert not any("↑" in text for text in drawn_texts(ax)[:-1])
    points = {collection.get_label(): len(collection.get_offsets()) for collection in ax.collections}
    assert points == {"trial": 19, "trial set to a baseline": 3, "failed or stopped trial": 2}
    (best,) = [line for line in ax.lines if line.get_label() == "best so far"]
    heights = list(best.get_ydata())
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] == search["best"]["value"]


def test_close_values_are_drawn_on_a_plain_axis():
    search = fake.search()
    search["candidates"] = search["candidates"][1:]
    (ax,) = curves.search_history(search).axes
    assert ax.get_yscale() == "linear"


def test_averages_have_a_panel_a_model_and_a_bar_a_row():
    results = fake.table1()
    results["rows"] += fake.table1("other")["rows"]
    figure = bars.averages(results, "accuracy")
    assert len(figure.axes) == 2
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    expected = [100 * r["metrics"]["average_acc"] for r in fake.table1()["rows"] if r["method"] != "dense"]
    assert heights == pytest.approx(expected)


def test_a_failed_bar_is_marked():
    results = fake.quickstart()
    results["rows"][1] = fake.failed("magnitude", results["metrics"], "boom")
    figure = bars.averages(results, "perplexity")
    assert "failed" in drawn_texts(figure.axes[0])
    assert bars.averages(results | {"metrics": []}, "perplexity") is None


def test_two_searches_never_share_a_file(tmp_path, monkeypatch):
    paths = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: paths.append(path))
    results = fake.quickstart()
    results["searches"] = [fake.search() | {"label": label} for label in ("w/o D", "w o D")]
    names = [figure["name"] for figure in figures.draw(results, tmp_path)]
    assert len(set(names)) == len(names) == 5
    assert [path.name for path in paths] == names


def test_the_papers_own_bars_stand_beside_ours():
    results = fake.table1("smollm2-135m", structure_ratio=None)
    figure = bars.averages(results | {"paper": compare(results)}, "accuracy")
    ours, paper = figure.axes
    assert paper.get_title() == "llama-7b, 20% (paper)"
    printed = [r for r in load_item("table1")["rows"] if r["method"] != "dense"]
    assert sorted(bar.get_height() for bar in paper.patches) == pytest.approx(
        sorted(row["metrics"]["average_acc"] for row in printed)
    )
    assert len(ours.patches) == 10
    results["spec"]["reproduces"] = None
    assert len(bars.averages(results | {"paper": None}, "accuracy").axes) == 1


@pytest.mark.parametrize(
    "names", [["a", "b", "c", "d", "e"], ["a rather long name of a search"] * 4, ["x" * 60, "y" * 60]]
)
def test_a_legend_is_no_wider_than_its_figure(names):
    figure, (ax,) = axes.new_figure()
    for place, name in enumerate(names):
        ax.plot([0, 1], [0, place], label=f"{name} {place}")
    axes.legend(figure, ax)
    (made,) = figure.legends
    assert len(made.get_texts()) == len(names)
    assert made.get_window_extent().width <= figure.bbox.width
