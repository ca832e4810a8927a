import pytest

from reproducer.reporting.searches import (
    best_so_far,
    counted,
    gap,
    histories,
    rival,
    settled,
    trials_until,
)

from . import fake
from .reading import tables


def search(values, label="TPE", sampler="tpe", seed=0, baseline=None, **more):
    trials = [
        {"number": i, "value": v, "state": "stopped" if v is None else "complete", "params": {},
         "baseline": baseline if i == 0 else None}
        for i, v in enumerate(values)
    ]  # fmt: skip
    settings = {"sampler": sampler, "data": "search", "windows": 16, **more.pop("settings", {})}
    return fake.change(fake.search(4, seed), trials=trials, label=label, settings=settings, **more)


def test_a_trial_that_was_made_up_for_does_not_count():
    found = search([3.0, 4.0, 5.0])
    failed = {**found.trials[1].model_dump(), "state": "failed", "value": None}
    assert counted(fake.change(found, trials=[*found.trials, failed])) == 3


def test_best_so_far_never_rises_and_goes_on_over_trials_without_a_value():
    assert best_so_far(search([None, 5.0, 7.0, None, 3.0])) == [float("inf"), 5.0, 5.0, 5.0, 3.0]
    twice = search([5.0, 3.0])
    again = [twice.trials[0], fake.change(twice.trials[1], value=None, state="failed"), twice.trials[1]]
    assert best_so_far(fake.change(twice, trials=again)) == [5.0, 3.0]  # killed, then made again
    assert trials_until([5.0, 5.0, 3.0], 4.9) == 3
    assert trials_until([5.0], 4.9) is None
    assert best_so_far(search([])) == [] and settled(search([])) is None


def test_what_a_baselines_trial_reached_is_no_merit_of_the_sampler():
    one = search([2.0, 5.0, 4.0], baseline="vector")
    assert best_so_far(one) == [float("inf"), 5.0, 4.0]
    assert settled(one) == 3
    assert histories([search([2.0, None], seed=1, baseline="vector")]) == []


def test_only_searches_that_differ_in_seed_and_label_alone_are_compared():
    alike = [search([3.0, 2.0], seed=seed) for seed in (0, 1)]
    others = [search([3.0], ratio=0.5), search([3.0], settings={"windows": 99}), search([3.0], model="another")]
    group, *singles = histories([*alike, *others, search([None], label="nothing")])
    assert [len(single) for single in singles] == [1, 1, 1]
    assert [[(one.label, one.seed) for one in searches] for searches in group] == [[("TPE", 0), ("TPE", 1)]]


def test_searches_are_a_line_with_the_means_over_their_seeds():
    found = [search([10.0, 5.05, 5.0, 5.0]), search([10.0, 8.0, 4.0, 4.0], seed=1)]
    found += [search([10.0, 9.0, 6.1, 6.0], "random", "random"), search([9.0, 7.0, 4.05, 4.05], "random", "random", 1)]
    (table,) = tables(fake.quickstart(searches=found), "Searches")
    assert [(line["Search"], line["Seeds"], line["To within 2%"]) for line in table] == [
        ("TPE", "2", "2.5"),
        ("random", "2", "3.0"),
    ]
    one = fake.search()
    (line,) = tables(fake.quickstart(searches=[one]), "Searches")[0]
    assert line["Gap"] == f"−{100 * (1 - one.best.value / 177.3):.1f}%" and line["Trials"] == "23"


def test_the_rival_is_the_best_baseline_with_a_value():
    one = fake.search()
    one = fake.change(one, baselines=[*one.baselines, {"method": "own", "label": "Own", "value": None}])
    assert rival(one).label == "LLM-Pruner-E2"
    assert gap(one) == pytest.approx(1 - one.best.value / 177.3)
    assert gap(fake.change(one, baselines=[])) is None
    (line,) = tables(fake.quickstart(searches=[one]), "Each search")[0]
    assert line["Best baseline↓"] == "177 (LLM-Pruner-E2)" and line["Found"] == r"alpha1 0.2817, fine_second 1e7"
