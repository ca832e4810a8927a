from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproducer.reporting import figures
from reproducer.reporting.figures import averaged, axes
from reproducer.reporting.rows import by_seed, estimate, lines
from reproducer.reporting.searches import histories

from . import fake
from .test_searches import search


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_do_not_overlap(places):
    moved = axes.apart(sorted(places), 0.06)
    assert len(moved) == len(places)
    assert all(b - a >= 0.06 - 1e-9 for a, b in pairwise(moved))
    assert axes.apart([0.1, 0.5, 0.9], 0.06) == pytest.approx([0.1, 0.5, 0.9])


def drawn_texts(ax):
    return [text.get_text() for text in ax.texts]


def test_of_a_single_search_each_trial_is_a_point_and_the_best_baseline_a_line():
    one = fake.search()
    (group,) = histories([one])
    (ax,) = figures.convergence(group).axes
    (points,) = ax.collections
    own = [trial for trial in one.trials if trial.value is not None and not trial.baseline]
    assert [tuple(place) for place in points.get_offsets()] == [(t.number + 1, pytest.approx(t.value)) for t in own]
    best, baseline = ax.lines
    heights = list(best.get_ydata())
    assert heights == sorted(heights, reverse=True) and heights[-1] == one.best.value
    assert list(best.get_xdata()) == list(range(4, 25)), "it starts behind the three trials that are set to baselines"
    assert list(baseline.get_ydata()) == [177.3, 177.3]


def drawn(results, kind):
    columns = averaged(results, kind)
    figure = figures.averages(results, columns)
    return figure and figure.axes


def points(ax):
    """Where the points of panel are, the dense model's line left out."""
    return [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "o"]


def test_a_failed_row_has_no_point_and_no_column_gives_no_figure():
    results = fake.quickstart()
    rows = [results.rows[0], fake.failed("magnitude", "boom"), *results.rows[2:]]
    results = fake.change(results, rows=rows)
    (ax,) = drawn(results, "perplexity")
    columns = ("python_topics_ppl", "python_docstrings_ppl")
    assert points(ax) == pytest.approx([sum(row.metrics[key] for key in columns) / 2 for row in rows[2:]])
    assert drawn(fake.change(results, columns=[]), "perplexity") is None


def test_intervals_over_seeds_stand_at_points():
    results = fake.table1(seeds=(0, 1, 2))
    pruned = [line for line in lines(results.rows) if line.method != "dense"]
    for kind, keys, scale in (("perplexity", ["wikitext2_ppl", "ptb_ppl"], 1), ("accuracy", ["average_acc"], 100)):
        (ax,) = drawn(results, kind)
        means = [estimate([*by_seed(line, keys).values()]) for line in pruned]
        bars = sorted(tuple(bar.get_segments()[0][:, 0]) for bar in ax.collections)
        expected = sorted((scale * (one.mean - one.half), scale * (one.mean + one.half)) for one in means)
        inside = [pair for pair in expected if pair[0] < ax.get_xlim()[1]]
        assert [list(pair) for pair in bars] == [pytest.approx(pair) for pair in inside]
    (ax,) = drawn(fake.table1(), "perplexity")
    assert not ax.collections, "one seed has no interval"


def test_a_perplexity_far_above_the_others_is_named_at_the_edge():
    results = fake.table1()
    (ax,) = drawn(results, "perplexity")
    (text,) = [text for text in drawn_texts(ax) if text.endswith("→")]
    worst = max(row.metrics["ptb_ppl"] / 2 + row.metrics["wikitext2_ppl"] / 2 for row in results.rows)
    assert text == f"{worst:.0f} →" and ax.get_xlim()[1] < worst


def test_each_panel_has_room_for_its_own_perplexities():
    """Those of another model, a hundred times as high, were all named at the edge."""
    keys = ("wikitext2_ppl", "ptb_ppl")
    other = [
        fake.change(row, metrics=row.metrics | {key: 100 * row.metrics[key] for key in keys})
        for row in fake.table1("other").rows
    ]
    results = fake.table1()
    panels = drawn(fake.change(results, rows=[*results.rows, *other]), "perplexity")
    places = [sorted(points(ax)) for ax in panels]
    assert places[1] == pytest.approx([100 * place for place in places[0]]) and len(places[0]) > 2
    for ax, inside in zip(panels, places, strict=True):
        assert ax.get_xlim()[0] < inside[0] and inside[-1] < ax.get_xlim()[1]


def test_two_searches_never_share_a_file_and_no_name_is_too_long(tmp_path):
    models = ("w/o D", "w o D", "x" * 300, "x" * 301)
    results = fake.quickstart(searches=[fake.search(model=model, trials=4) for model in models])
    names = [picture.png.name for picture in figures.draw(results, tmp_path)]
    assert len(set(names)) == len(names) == 6 == len([*tmp_path.iterdir()])


def test_no_text_is_cut_by_the_edge_of_its_figure():
    results = fake.measured(fake.table1("smollm2-135m", structure_ratio=None), 3)
    labels = {row.method: f"{row.label}, rather long" for row in results.rows}
    rows = [fake.change(row, label=labels[row.method]) for row in results.rows]
    results = fake.change(results, rows=rows, searches=[fake.search(label="AdaPruner, rather long")])
    made = [figures.averages(results, averaged(results, kind)) for kind in ("accuracy", "perplexity")]
    for figure in [*made, figures.convergence(histories(results.searches)[0])]:
        figure.canvas.draw()
        for ax in figure.axes:
            low, high = ax.get_xlim()
            ticks = [label for label in ax.get_xticklabels() if low <= label.get_position()[0] <= high]
            if len(ax.get_yticks()) < 12 and ax.get_yscale() == "linear":
                bottom, top = sorted(ax.get_ylim())
                ticks += [label for label in ax.get_yticklabels() if bottom <= label.get_position()[1] <= top]
            for text in (*ticks, ax.xaxis.label, ax.yaxis.label, ax.title, *ax.texts):
                if text.get_text():
                    box = text.get_window_extent()
                    assert box.x0 >= -1 and box.y0 >= -1, text.get_text()
                    assert box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1, text.get_text()


def test_the_band_reaches_from_the_least_to_the_greatest_seed():
    (group,) = histories([search([10.0, 5.0, 5.0, 4.0]), search([8.0, 7.0, 3.0, 2.0], seed=1)])
    (ax,) = figures.convergence(group).axes
    line, _ = ax.lines
    assert list(line.get_xdata()) == [1, 2, 3, 4]
    assert list(line.get_ydata()) == [9.0, 6.0, 4.0, 3.0]
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (2.0, 10.0)
    assert line.get_label() == "TPE (2 seeds)"


def test_a_seed_that_starts_behind_the_end_of_another_does_no_harm():
    (group,) = histories([search([3.0, 2.0]), search([None, None, None, 5.0, 4.0], seed=1)])
    line, _ = figures.convergence(group).axes[0].lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([4], [3.5])
