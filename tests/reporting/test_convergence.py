import pytest

from reproducer.reporting.convergence import best_so_far, claims, convergence_table, histories, trials_until
from reproducer.reporting.curves import convergence, losses, smoothed

from . import fake


def search(values, label="TPE", sampler="tpe", seed=0, **more):
    trials = [
        {"number": i, "value": v, "state": "pruned" if v is None else "complete", "baseline": None}
        for i, v in enumerate(values)
    ]
    return fake.search() | {"trials": trials, "label": label, "sampler": sampler, "seed": seed} | more


def test_best_so_far_never_rises_and_goes_on_over_trials_without_a_value():
    assert best_so_far(search([None, 5.0, 7.0, None, 3.0])) == [float("inf"), 5.0, 5.0, 5.0, 3.0]
    twice = search([5.0, 3.0])
    twice["trials"].insert(1, twice["trials"][1] | {"value": None, "state": "fail"})  # killed, then made again
    assert best_so_far(twice) == [5.0, 3.0]
    assert trials_until([5.0, 5.0, 3.0], 4.9) == 3
    assert trials_until([5.0], 4.9) is None


def test_what_a_baselines_trial_reached_is_no_merit_of_the_sampler():
    one = search([2.0, 5.0, 4.0])
    one["trials"][0]["baseline"] = "vector"
    assert best_so_far(one) == [float("inf"), 5.0, 4.0]
    assert best_so_far(one, baselines=True) == [2.0, 2.0, 2.0]
    alone = search([2.0, None], seed=1)
    alone["trials"][0]["baseline"] = "vector"
    assert histories([one, alone]) == []


def test_only_searches_that_differ_in_seed_and_label_alone_are_compared():
    alike = [search([3.0, 2.0], seed=seed) for seed in (0, 1)]
    others = [search([3.0], ratio=0.5), search([3.0], windows=99), search([3.0], model="another")]
    (group,) = histories([*alike, *others, search([None], label="nothing")])
    assert list(group.by_label) == ["TPE"] and group.seeds == [0, 1]
    assert histories(alike[:1]) == []


def cells(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_trials_to_the_own_and_to_the_common_best():
    found = [search([10.0, 5.05, 5.0, 5.0]), search([10.0, 8.0, 4.0, 4.0], seed=1)]
    found += [search([10.0, 9.0, 6.1, 6.0], "random", "random"), search([9.0, 7.0, 4.05, 4.05], "random", "random", 1)]
    (group,) = histories(found)
    rows = cells(convergence_table(group))
    assert rows[0] == ["TPE", "0", "5.00", "2", "2"]
    assert rows[1] == ["", "1", "4.00", "3", "3"]
    assert rows[2][1:] == ["mean", "4.50 ± 0.71", "2.5", "2.5"]
    assert rows[3] == ["random", "0", "6.00", "3", "never"]
    assert rows[5][1:] == ["mean", "5.03 ± 1.38", "3.0", "3.0 (1 of 2 seeds)"]
    assert [row[2].bold for row in convergence_table(group).rows] == [False, False, True, False, False, False]


def told(tpe, chance):
    found = [search(values, seed=seed) for seed, values in enumerate(tpe)]
    found += [search(values, "random", "random", seed) for seed, values in enumerate(chance)]
    (group,) = histories(found)
    return claims(group)


def test_the_claim_holds_where_every_seed_is_sooner():
    (text,) = told([[9.0, 4.0, 3.0, 3.0], [9.0, 9.0, 4.0, 4.0]], [[9.0, 8.0, 7.0, 5.0], [9.0, 9.0, 9.0, 5.0]])
    assert "In 2 of 2 seeds TPE reaches the final best of random, after 2.5 trials on average" in text
    assert "needs 4.0: a ratio of 0.62" in text
    assert "(less than 150 trials against about 300) holds in kind." in text


def test_the_claim_fails_where_tpe_never_arrives_or_is_later():
    (text,) = told([[9.0, 9.0, 9.0]], [[9.0, 8.0, 7.0]])
    assert "does not reach" in text and text.endswith("does not hold here.")
    (text,) = told([[9.0, 9.0, 5.0]], [[9.0, 5.0, 5.0]])
    assert "a ratio of 1.50" in text and text.endswith("does not hold here.")
    three = [[9.0, 4.0, 4.0], [9.0, 4.0, 4.0], [9.0, 9.0, 9.0]]
    (text,) = told(three, [[9.0, 9.0, 5.0]] * 3)
    assert "In 2 of 3 seeds" in text and "holds in part" in text


def test_searches_with_other_data_make_no_claim_about_the_sampler():
    found = [search([5.0, 4.0]), search([5.0, 4.5], "random", "random", data="random")]
    (group,) = histories([one | {"data": one.get("data", "search")} for one in found])
    assert claims(group) == []


def test_the_band_reaches_from_the_least_to_the_greatest_seed():
    found = [search([10.0, 5.0, 5.0, 4.0]), search([8.0, 7.0, 3.0, 2.0], seed=1)]
    (group,) = histories(found)
    (ax,) = convergence(group).axes
    (line,) = ax.lines
    assert list(line.get_xdata()) == [1, 2, 3, 4]
    assert list(line.get_ydata()) == [9.0, 6.0, 4.0, 3.0]
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (2.0, 10.0)
    assert line.get_label() == "TPE (2 seeds)"


def test_a_seed_that_starts_behind_the_end_of_another_does_no_harm():
    (group,) = histories([search([3.0, 2.0]), search([None, None, None, 5.0, 4.0], seed=1)])
    (line,) = convergence(group).axes[0].lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([4], [3.5])


def test_every_trained_row_is_a_line_and_the_methods_are_the_legend():
    rows = fake.measured(fake.table1())["rows"]
    figure = losses(rows)
    (ax,) = figure.axes
    _, labels = ax.get_legend_handles_labels()
    assert labels == [fake.METHODS[method] for method in fake.METHODS]
    smooth = [line for line in ax.lines if not line.get_label().startswith("_")]
    raw = [line for line in ax.lines if line.get_label().startswith("_")]
    assert len(smooth) == len(raw) == 5
    assert list(raw[0].get_ydata()) == [
        point["loss"] for point in next(r for r in rows if r.get("training"))["training"]
    ]


def test_smoothing_keeps_the_mean_of_a_line_and_the_length():
    assert smoothed([1.0, 2.0, 3.0, 4.0, 5.0], 2) == pytest.approx([2.0, 2.5, 3.0, 3.5, 4.0])
    assert smoothed([3.0, 1.0], 1) == [3.0, 1.0]
