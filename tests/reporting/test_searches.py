import pytest

from reproducer.reporting.searches import (
    best_so_far,
    counted,
    gap,
    histories,
    importances,
    rival,
    settled,
    states,
    trials_until,
)

from . import fake
from .reading import markdown, section_of, tables


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


def section(*searches):
    """What is said of searches: together, then each."""
    text = markdown(fake.quickstart(searches=searches))
    return section_of(text, "Searches") + section_of(text, "Appendix").split("\n### Settings")[0]


def of_each(results):
    """The tables of the only search of `results`: candidates, parameters, samples."""
    (one,) = results.searches
    return tables(results, f"Search: {one.label}, {one.model}, 20%, seed {one.seed}")


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
    assert [len(single.by_label) for single in singles] == [1, 1, 1]
    assert {label: list(seeds) for label, seeds in group.by_label.items()} == {"TPE": [0, 1]}


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
    table = of_each(fake.quickstart(searches=[one]))[0]
    assert [*table[-1].values()] == ["Own", "not finite", "–"]


def test_a_baseline_that_wins_its_search_shares_the_first_place():
    one = fake.search()
    best = fake.change(one.best, baseline="llm-pruner-e2", number=2, value=177.3)
    results = fake.quickstart(searches=[fake.change(one, best=best)])
    assert "no trial was better" in markdown(results)
    table = of_each(results)[0]
    bold = [line["Candidate"] for line in table if line["Objective↓"].startswith("**")]
    assert bold == ["AdaPruner", "LLM-Pruner-E2"]
    assert "The best is llm-pruner-e2, the 3rd trial: alpha1 0.2817" in markdown(results)


def test_importances_of_the_samples_are_summed_and_nothing_is_lost():
    found = importances(fake.search(importances=fake.SHARES))
    assert [names for names, _ in found] == [
        [f"sample_{i}" for i in range(10)], ["alpha1"], ["coarse_second"], ["fine_second"],
    ]  # fmt: skip
    assert sum(share for _, share in found) == pytest.approx(1)
    assert r"sample\_0 … sample\_9 (sum of 10)" in section(fake.search(importances=fake.SHARES))


def test_stopped_trials_and_shared_studies_are_told():
    one = fake.search(workers=2)
    assert states(one) == {"complete": 22, "failed": 1, "stopped": 1}
    text = section(one)
    assert "22 complete, 1 failed, 1 stopped" in text and "2 processes shared the study" in text
    trials = [fake.change(t, state="void") if t.state == "stopped" else t for t in one.trials]
    text = section(fake.change(one, trials=trials, workers=1))
    assert "no finite objective" in text and "timing" not in text and "hopeless" not in text


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"data": "random"}, "The samples are the baselines’ random draw; only the metric is searched."),
        ({"order": "sequential"}, "2 samples, each from the whole pool, are searched first, the metric after them."),
        ({"sampler": "tpe", "mode": "paper"}, "23 trials by TPE (univariate, as in the paper), samples as bare"),
        ({"split": "report"}, "the very texts that the table reports on, as the paper does."),
        ({}, "after 5 trials that are baselines or random, samples as bare indices, hopeless trials stopped"),
        ({}, "α₁·c·\\|Σ(s1 − ½·a·s2)\\| + α₂·f·Σ\\|s1 − ½·b·s2\\|, where α₁ in \\[0, 1\\], b in {0, 1e5, 1e7, only}"),
        ({}, "Of the space besides: own {1, 2}."),
    ],
)
def test_settings_tell_how_was_searched(settings, sentence):
    one = fake.search()
    one = fake.change(one, settings=one.settings | settings)
    assert sentence in section_of(markdown(fake.quickstart(searches=[one])), "Settings")
