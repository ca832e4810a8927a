"""What a recovery tells apart, against paired tests and simulations."""

import math
import random

import numpy as np
import pytest
from scipy.stats import ttest_rel

from reproducer.paper import load_item
from reproducer.reporting.bootstrap import LEVEL, POWER, of_error
from reproducer.reporting.recoveries import MOST, degrees, recovered
from tests.reporting import fake
from tests.reporting.claimed import BASELINES, run
from tests.reporting.reading import markdown, section_of, tables

RIGHT = {"dense": 0.7, **BASELINES, "AdaPruner": 0.6}
SECTION = "What the recovery can tell apart"


def values(results, label: str) -> list[float]:
    """By seed the average accuracy in points."""
    rows = sorted((row for row in results.rows if row.label == label), key=lambda row: row.seed)
    return [100 * row.metrics["average_acc"] for row in rows]


def test_of_two_methods_it_is_the_paired_t_test():
    results = run({"dense": 0.7, "LLM-Pruner-E2": 0.55, "AdaPruner": 0.56}, recovery="lora")
    (block,) = recovered(results)
    (one,) = [of for of in block.measures if of.measure == "accuracy"]
    ours, theirs = (values(results, label) for label in ("AdaPruner", "LLM-Pruner-E2"))
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    error = np.std(differences, ddof=1) / math.sqrt(5)
    assert one.smallest == pytest.approx(of_error(0.0, float(error), 4).detectable)
    assert one.spread == pytest.approx(abs(np.mean(differences)))
    assert (one.pairs, one.told) == (1, int(ttest_rel(ours, theirs).pvalue < LEVEL))
    assert (one.methods, one.seeds) == (2, (0, 1, 2, 3, 4))


def test_what_is_left_over_is_that_of_a_least_squares_fit():
    results = run(RIGHT, recovery="lora", spread=0.03)
    (block,) = recovered(results)
    (one,) = [of for of in block.measures if of.measure == "accuracy"]
    labels = [label for label in RIGHT if label != "dense"]
    y = np.array([values(results, label) for label in labels])
    methods, seeds = y.shape
    design = np.array([[*np.eye(methods)[m], *np.eye(seeds)[s]] for m in range(methods) for s in range(seeds)])
    fit = design @ np.linalg.lstsq(design, y.ravel(), rcond=None)[0]
    variance = ((y.ravel() - fit) ** 2).sum() / degrees(y.shape, seeds)
    assert one.smallest == pytest.approx(
        of_error(0.0, math.sqrt(2 * variance / seeds), (methods - 1) * (seeds - 1)).detectable
    )


def test_an_effect_of_the_smallest_size_is_found_as_often_as_said():
    """Of methods by seeds with a spread of 1: four of five repetitions, within what 2,000 of them let vary."""
    draw, methods, seeds = np.random.RandomState(0), 4, 3
    error = math.sqrt(2 / seeds)
    effect = of_error(0.0, error, degrees((methods, seeds), seeds)).detectable
    seen = 0
    for _ in range(2000):
        y = draw.randn(methods, seeds) + 5 * draw.randn(1, seeds)
        y[0] += effect
        left = y - y.mean(1, keepdims=True) - y.mean(0, keepdims=True) + y.mean()
        spread = math.sqrt(2 * (left**2).sum() / degrees(y.shape, seeds) / seeds)
        seen += of_error(float(y[0].mean() - y[1].mean()), spread, degrees(y.shape, seeds)).p < LEVEL
    assert abs(seen / 2000 - POWER) < 0.04


def test_the_papers_difference_is_that_of_its_table():
    (block,) = recovered(run(RIGHT, recovery="lora"))
    printed = {row.label: row.metrics for row in load_item("table1").rows if row.recovery == "lora"}
    told = {one.measure: one for one in block.measures}
    others = [printed[label] for label in BASELINES]
    best = max(other["average_acc"] for other in others)
    assert told["accuracy"].paper == pytest.approx(printed["AdaPruner"]["average_acc"] - best)
    logs = [sum(math.log(of[key]) for key in ("wikitext2_ppl", "ptb_ppl")) / 2 for of in others]
    own = sum(math.log(printed["AdaPruner"][key]) for key in ("wikitext2_ppl", "ptb_ppl")) / 2
    assert told["perplexity"].paper == pytest.approx(100 * (math.exp(min(logs) - own) - 1))


@pytest.mark.parametrize("spread", [0.0005, 0.02, 0.5])
def test_the_seeds_are_the_fewest_that_would_do(spread):
    (block,) = recovered(run(RIGHT, recovery="lora", spread=spread, seeds=range(3)))
    one = next(of for of in block.measures if of.measure == "accuracy")

    def smallest(seeds: int) -> float:
        shape = (one.methods, 3)
        # what is told of three seeds, as of another number of them
        per_error = of_error(0.0, 1.0, degrees(shape, 3)).detectable
        error = one.smallest / per_error * math.sqrt(3 / seeds)
        return of_error(0.0, error, degrees(shape, seeds)).detectable

    if one.needed is None:
        assert smallest(MOST) > one.paper
    else:
        assert smallest(one.needed) <= one.paper
        assert one.needed == 2 or smallest(one.needed - 1) > one.paper


def test_rows_that_nothing_tells_apart_are_exploratory():
    same = dict.fromkeys(RIGHT, 0.5)
    (block,) = recovered(run(same, recovery="lora", seeds=range(3), spread=0.02))
    assert block.exploratory
    text = markdown(run(same, recovery="lora", seeds=range(3), spread=0.02))
    assert "**exploratory**: no two of these rows are told apart" in section_of(text, SECTION)
    assert "**Exploratory:** this run’s recovery tells no two rows apart of 20%, w/ LoRA" in text
    (block,) = recovered(run(RIGHT, recovery="lora", seeds=range(3)))
    assert not block.exploratory


def test_of_one_seed_nothing_is_told():
    results = run(RIGHT, recovery="lora", seeds=[0])
    (block,) = recovered(results)
    assert block.exploratory and all(one.smallest is None and one.told == 0 for one in block.measures)
    assert "of one seed nothing is known of the spread" in section_of(markdown(results), SECTION)
    assert recovered(run(RIGHT)) == [], "untuned rows are no recovery's"
    assert recovered(run({"dense": 0.7, "AdaPruner": 0.6}, recovery="lora")) == []


def trained(apart, steps: int = 40, seeds: int = 3):
    """Rows whose losses are `apart(step)` from method to method."""
    rows = []
    for row in run(RIGHT, recovery="lora", seeds=range(seeds)).rows:
        if row.method != "dense":
            draw = random.Random(f"{row.label} {row.seed}")
            place = [*RIGHT].index(row.label)
            losses = [
                {
                    "step": i + 1,
                    "loss": 2 + row.seed / 10 + place * apart(i / steps) + draw.gauss(0, 0.01),
                    "learning_rate": 1e-4,
                    "examples": 16 * (i + 1),
                }
                for i in range(steps)
            ]
            row = fake.change(row, training=losses)
        rows.append(row)
    return fake.change(run(RIGHT, recovery="lora", seeds=range(seeds)), rows=rows)


def test_losses_tell_which_budget_tells_more():
    for apart, gains in ((lambda done: 0.001 + 0.05 * done, True), (lambda done: 0.05 * (1 - done), False)):
        results = trained(apart)
        (block,) = recovered(results)
        assert [one.steps for one in block.losses] == [(1, 10), (11, 20), (21, 30), (31, 40)]
        assert block.gains is gains
        words = "more steps tell more:" if gains else "more steps tell no more:"
        assert words in section_of(markdown(results), SECTION)
    (table,) = tables(trained(lambda done: 0.05), SECTION)
    assert [line["By"] for line in table] == [
        "mean perplexity (%)", "average accuracy (points)",
        *[f"training loss (nats), steps {a} to {a + 9}" for a in (1, 11, 21, 31)],
    ]  # fmt: skip
    assert table[-1]["Pairs told"] == "15 of 15"


def test_a_seed_that_moves_all_rows_alike_hides_nothing():
    """Losses 0.1 apart from seed to seed, 0.05 from method to method."""
    (block,) = recovered(trained(lambda done: 0.05))
    assert all(one.smallest < 0.02 for one in block.losses)
