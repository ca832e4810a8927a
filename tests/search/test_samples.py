"""Which samples a trial's parameters stand for, and which baselines the joint space holds."""

from __future__ import annotations

import json
import math

import pytest
import torch
from optuna.trial import FixedTrial

from reproducer.methods.adapruner import AdaPrunerSpace, adapruner
from reproducer.methods.registry import METHODS
from reproducer.search.samples import SampleSpace, best_alone, parts, rarest, sample_space
from reproducer.search.settings import SearchSettings
from reproducer.search.space import JointSpace, needs

DRAW = (9, 1, 5)
POOL = torch.arange(20)[:, None]
NAMES = ("vector", "llm-pruner-e1", "llm-pruner-e2", "llm-pruner-mix", "magnitude")


def joint(encoding, **own):
    return JointSpace(adapruner, AdaPrunerSpace(**own), encoding, DRAW)


def held(space):
    return {name for name in NAMES if space.embed(name) is not None}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ({}, {"vector", "llm-pruner-e2"}),
        ({"fine_second": [0.0, "only"]}, {"vector", "llm-pruner-e1", "llm-pruner-e2"}),
        ({"coarse_second": [0.0], "fine_second": [0.0]}, {"vector", "llm-pruner-e1"}),
        ({"coarse_second": ["only"], "fine_second": ["only"]}, {"llm-pruner-e2"}),
        ({"taylor": "first"}, {"llm-pruner-e1"}),  # w/o I1
        ({"taylor": "second"}, {"llm-pruner-e2"}),  # w/o I2
        ({"coarse_second": [1e6], "fine_second": [1.0, 1e6]}, {"llm-pruner-mix"}),
        ({"coarse_second": [1e6], "fine_second": [1e6]}, set()),
    ],
)
@pytest.mark.parametrize("encoding", [SampleSpace(parts(range(20), 3, False, 20)), SampleSpace(fixed=DRAW)])
def test_a_space_holds_the_baselines_whose_values_it_offers(metric, expected, encoding):
    space = joint(encoding, **metric)
    assert held(space) == expected
    for name in expected:
        point = space.embed(name)
        samples, parameters = space.suggest(FixedTrial(point))  # which refuses a value that is not offered
        assert samples == DRAW
        # At that point the method needs what the baseline needs: its other term is gone.
        rules = adapruner.make(parameters), METHODS.get(name).make()
        assert set(rules[0].needs) == set(rules[1].needs)


def test_what_trials_need_is_known_from_the_choices():
    from reproducer.pruning.statistics import Element, First, Second

    assert needs(adapruner, AdaPrunerSpace()) == {First(), Second()}, "no pass for a candidate's own statistics"
    factors = [0.0, 1e5]
    assert needs(adapruner, AdaPrunerSpace(fine_second=factors)) == {First(), Second(), *map(Element, factors)}
    assert needs(adapruner, AdaPrunerSpace(taylor="second")) == {Second()}


@pytest.mark.parametrize(("pool", "samples"), [(20, 3), (7, 7), (23, 5)])
def test_ten_spaces_are_contiguous_parts_of_which_each_gives_a_sample(pool, samples):
    found = parts(range(pool), samples, True, pool)
    assert [passage for part in found for passage in part] == list(range(pool)) and len(found) == samples
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert SampleSpace(found).embed([part[-1] for part in reversed(found)]) == {
        f"sample_{place}": len(part) - 1 for place, part in enumerate(found)
    }
    if pool > samples:
        assert SampleSpace(found).embed(range(samples)) is None  # the draw has two samples of one part


# What is found out before the search.


def chosen(directory, pool=POOL, draw=DRAW, alone=None, **settings):
    return sample_space(SearchSettings(**settings), draw, pool, alone, directory, lambda *_: None)


@pytest.mark.parametrize(("data", "parts"), [("search", 1), ("ten-spaces", 3)])
def test_of_a_large_pool_the_local_sampler_is_offered_few(tmp_path, data, parts):
    pool = torch.zeros(1000, 4, dtype=torch.long)
    pool[::100, 0] = torch.arange(1, 11)  # each of these tokens is in one passage alone
    found = chosen(tmp_path, pool, offered=9, data=data)
    assert len(set(found.parts)) == parts
    rare = [0, 100, 200, 300, 400, 500, 600, 700, 800] if parts == 1 else [0, 100, 200, 400, 500, 600, 700, 800, 900]
    assert found.passages == sorted({1, 5, 9, *rare})
    if parts == 1:
        assert found.suggest(FixedTrial(found.embed(DRAW))) == DRAW
    other = chosen(tmp_path, pool, draw=(7, 8, 11), offered=9, data=data)
    assert set(rare) <= set(other.passages), "the same for another seed, but for its draw"


@pytest.mark.parametrize("places", [1, 3])
def test_the_rarest_passages_are_those_of_the_least_likely_tokens(places):
    pool = torch.randint(0, 50, (40, 8), generator=torch.Generator().manual_seed(0)) ** 2 // 50
    tokens = pool.flatten().tolist()
    likely = [sum(math.log(tokens.count(token)) for token in row) for row in pool.tolist()]
    found = rarest(pool, 6, places)
    assert len(found) == 6
    for part in parts(range(40), places, places > 1, 40):
        inside = [passage for passage in part if passage in found]
        assert len(inside) == 6 // places
        assert max(likely[one] for one in inside) <= min(likely[one] for one in part if one not in inside)


def test_the_samples_that_are_best_alone(tmp_path):
    asked, shown = [], []

    def alone(index, dies_at=None):
        asked.append(index)
        if len(asked) == dies_at:
            raise KeyboardInterrupt
        return float("inf") if index == 7 else 50.0 + abs(index - 7)

    tell, path = (lambda *of: shown.append(of)), tmp_path / "scores.json"
    with pytest.raises(KeyboardInterrupt):
        best_alone(20, 3, 256, lambda index: alone(index, 9), path, tell)
    assert best_alone(20, 3, 256, alone, path, tell) == (5, 6, 8)  # of equals, the first
    assert asked == [*range(9), *range(8, 20)]
    found = json.loads(path.read_text())
    assert (found["pool"], found["scored"], found["scores"]["7"], found["scores"]["0"]) == (20, 20, None, 57)
    assert shown[-1][:2] == (19, 20)
    assert chosen(tmp_path, alone=alone, data="score") == SampleSpace(fixed=(5, 6, 8)) and len(asked) == 21
