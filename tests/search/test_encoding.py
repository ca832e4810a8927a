"""Which samples a trial's parameters stand for, and which baselines the joint space holds."""

from __future__ import annotations

import json
import math

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FixedTrial
from pydantic import ValidationError
from search_objective import Objective

from reproducer.errors import UserError
from reproducer.methods.adapruner import TAYLOR, AdaPrunerSpace, adapruner
from reproducer.methods.registry import METHODS
from reproducer.search import encoding as encoding_module
from reproducer.search.encoding import (
    Given,
    Indices,
    Ranked,
    best_alone,
    encode,
    parts,
    principal_components,
    rarest,
    spread,
    standardised,
)
from reproducer.search.settings import SearchSettings
from reproducer.search.space import JointSpace, needs
from tests.helpers import examples

DRAW = (9, 1, 5)
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
@pytest.mark.parametrize("encoding", [Indices(parts(range(20), 3, False)), Given(DRAW)])
def test_a_space_holds_the_baselines_whose_values_it_offers(metric, expected, encoding):
    space = joint(encoding, **metric)
    assert held(space) == expected
    for name in expected:
        point = space.embed(name)
        candidate = space.suggest(FixedTrial(point))  # which refuses a value that is not offered
        assert candidate.samples == DRAW
        # At that point the method needs what the baseline needs: its other term is gone.
        rules = adapruner.make(candidate.parameters), METHODS.get(name).make()
        assert set(rules[0].needs) == set(rules[1].needs)


@pytest.mark.parametrize("taylor", ["first", "second"])
def test_a_fixed_order_leaves_only_the_data_to_search(taylor):
    space = joint(Indices(parts(range(20), 3, False)), taylor=taylor)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    candidate = space.suggest(trial)
    assert set(trial.params) == set(space.encoding.names)
    assert set(adapruner.make(candidate.parameters).needs) == set(METHODS.get(TAYLOR[taylor]).make().needs)
    assert space.suggest(FixedTrial(space.embed(TAYLOR[taylor]))).samples == DRAW


def test_a_point_of_a_space_with_smaller_weights_ranks_as_the_baseline():
    assert joint(Given(DRAW), alpha_max=0.5).embed("vector")["alpha1"] == 0.5


def test_a_space_that_offers_nothing_is_refused():
    with pytest.raises(ValidationError, match="fine_scale"):
        AdaPrunerSpace(fine_scale=[])


def test_what_trials_need_is_known_from_the_choices():
    from reproducer.pruning.statistics import Element, First, Second

    assert needs(adapruner, AdaPrunerSpace()) == {First(), Second()}, "no pass for a candidate's own statistics"
    factors = [0.0, 1e5]
    assert needs(adapruner, AdaPrunerSpace(fine_second=factors)) == {First(), Second(), *map(Element, factors)}
    assert needs(adapruner, AdaPrunerSpace(taylor="second")) == {Second()}


@pytest.mark.parametrize(("pool", "samples"), [(20, 3), (7, 7), (23, 5)])
def test_ten_spaces_are_contiguous_parts_of_which_each_gives_a_sample(pool, samples):
    found = parts(range(pool), samples, True)
    assert [passage for part in found for passage in part] == list(range(pool)) and len(found) == samples
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert Indices(found).embed([part[-1] for part in reversed(found)]) == {
        f"sample_{place}": len(part) - 1 for place, part in enumerate(found)
    }
    if pool > samples:
        assert Indices(found).embed(range(samples)) is None  # the draw has two samples of one part


# Encodings.


def parameters(encoding, data):
    return {name: data.draw(st.integers(0, len(encoding.parts[0]) - 1)) for name in encoding.names}


@examples(50)
@given(order=st.permutations(range(12)), data=st.data())
def test_in_an_ordered_pool_the_order_of_samples_makes_no_difference(order, data):
    encoding = Indices((tuple(order),) * 3, ordered=True)
    point = parameters(encoding, data)
    samples = encoding.suggest(FixedTrial(point))
    turned = dict(zip(point, list(point.values())[::-1], strict=True))
    assert encoding.suggest(FixedTrial(turned)) == samples == tuple(sorted(order[place] for place in point.values()))
    embedded = encoding.embed(samples)
    assert encoding.suggest(FixedTrial(embedded)) == samples
    assert list(embedded.values()) == sorted(embedded.values())


def test_ranked_passages_are_those_with_the_highest_weighted_sum():
    features = {passage: (float(passage), float(-((passage - 4) ** 2))) for passage in range(9)}
    encoding = Ranked(((tuple(range(9)), 3),), features)
    choose = lambda *weights: encoding.suggest(FixedTrial({f"weight_{i}": w for i, w in enumerate(weights)}))  # noqa: E731
    assert choose(1.0, 0.0) == (6, 7, 8)
    assert choose(-0.2, 0.0) == (0, 1, 2)
    assert choose(0.0, 1.0) == (3, 4, 5)
    assert choose(0.5, 0.25) == choose(1.0, 0.5) == (4, 5, 6)  # the length of the weights says nothing
    assert encoding.embed((6, 7, 8)) is None


# What is found out before the search.


def encoded(directory, objective=None, draw=DRAW, alone=None, **settings):
    return encode(SearchSettings(**settings), draw, objective or Objective(), alone, directory, lambda *_: None)


def test_an_ordered_pool_has_passages_that_are_alike_beside_each_other(tmp_path):
    encoding = encoded(tmp_path, encoding="ordered")
    far = [abs(passage - 7) for passage in encoding.parts[0]]
    assert far in (sorted(far), sorted(far, reverse=True)) and len(far) == 20
    assert held(joint(encoding)) == held(joint(Given(DRAW)))
    assert encoding.suggest(FixedTrial(encoding.embed(DRAW))) == (1, 5, 9)


def test_ten_ordered_spaces_are_the_same_parts_ordered_within(tmp_path):
    encoding = encoded(tmp_path, encoding="ordered", data="ten-spaces")
    assert [sorted(part) for part in encoding.parts] == [list(part) for part in parts(range(20), 3, True)]
    assert any(list(part) != sorted(part) for part in encoding.parts)


@pytest.mark.parametrize("data", ["search", "ten-spaces"])
def test_features_are_found_once(tmp_path, data):
    first, second = Objective(), Objective()
    encoding = encoded(tmp_path, first, encoding="features", data=data)
    assert len(encoding.names) == 2  # the states lie on a line
    assert encoded(tmp_path, second, encoding="features", data=data) == encoding
    assert first.text_tokens > 0 == second.text_tokens
    samples = encoding.suggest(FixedTrial({"weight_0": 1.0, "weight_1": 0.0}))  # the highest losses
    expected = (17, 18, 19) if data == "search" else (0, 12, 19)
    assert samples == expected


@pytest.mark.parametrize("encoding", ["ordered", "features"])
def test_of_a_large_pool_passages_all_over_it_are_offered_and_the_baselines_draw(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(encoding_module, "FEATURED", 10)
    found = encoded(tmp_path, Objective(pool=torch.arange(1000)[:, None]), encoding=encoding, offered=0)
    offered = sorted(found.parts[0] if encoding == "ordered" else found.groups[0][0])
    assert len(offered) == 13 and {1, 5, 9} <= set(offered)
    assert torch.tensor(offered[3:]).diff().tolist() == [100] * 9


@pytest.mark.parametrize(("data", "parts"), [("search", 1), ("ten-spaces", 3)])
def test_of_a_large_pool_the_local_sampler_is_offered_few(tmp_path, data, parts):
    pool = torch.zeros(1000, 4, dtype=torch.long)
    pool[::100, 0] = torch.arange(1, 11)  # each of these tokens is in one passage alone
    found = encoded(tmp_path, Objective(pool=pool), offered=9, data=data)
    assert len(set(found.parts)) == parts
    rare = [0, 100, 200, 300, 400, 500, 600, 700, 800] if parts == 1 else [0, 100, 200, 400, 500, 600, 700, 800, 900]
    assert found.passages == sorted({1, 5, 9, *rare})
    if parts == 1:
        assert found.suggest(FixedTrial(found.embed(DRAW))) == DRAW
    other = encoded(tmp_path, Objective(pool=pool), draw=(7, 8, 11), offered=9, data=data)
    assert set(rare) <= set(other.passages), "the same for another seed, but for its draw"


@pytest.mark.parametrize("places", [1, 3])
def test_the_rarest_passages_are_those_of_the_least_likely_tokens(places):
    pool = torch.randint(0, 50, (40, 8), generator=torch.Generator().manual_seed(0)) ** 2 // 50
    tokens = pool.flatten().tolist()
    likely = [sum(math.log(tokens.count(token)) for token in row) for row in pool.tolist()]
    found = rarest(pool, 6, places)
    assert len(found) == 6
    for part in parts(range(40), places, places > 1):
        inside = [passage for passage in part if passage in found]
        assert len(inside) == 6 // places
        assert max(likely[one] for one in inside) <= min(likely[one] for one in part if one not in inside)


@pytest.mark.parametrize(("mode", "sampler"), [("paper", None), ("default", "tpe")])
def test_other_searches_are_offered_the_whole_pool(tmp_path, mode, sampler):
    pool = torch.arange(1000)[:, None]
    found = encoded(tmp_path, Objective(pool=pool), mode=mode, sampler=sampler, encoding="indices")
    assert found.passages == list(range(1000))


@pytest.mark.parametrize("data", ["random", "search"])
def test_bare_indices_and_given_data_need_no_features(tmp_path, data):
    encoding = encoded(tmp_path, encoding="indices", data=data)
    assert isinstance(encoding, Given if data == "random" else Indices)
    assert not list(tmp_path.iterdir())


def test_principal_components_do_not_depend_on_the_directions_of_the_axes():
    generator = torch.Generator().manual_seed(0)
    scale, turn = torch.tensor([5.0, 2.0, 1.0, 0.1]), torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
    rows = 3 + torch.randn(50, 4, generator=generator) * scale @ turn
    found = principal_components(rows, 2)
    assert found.shape == (50, 2)
    centred = rows.double() - rows.double().mean(0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors
    for place, axis in enumerate(axes.T.flip(0)[:2]):
        axis = axis * axis[axis.abs().argmax()].sign()
        torch.testing.assert_close(found[:, place], centred @ axis)
    torch.testing.assert_close(standardised(found).square().mean(0), torch.ones(2, dtype=torch.float64))
    assert (standardised(torch.ones(3, 1)) == 0).all()


@examples(50)
@given(pool=st.integers(1, 500), count=st.integers(1, 500))
def test_passages_spread_over_a_pool(pool, count):
    chosen = spread(pool, count)
    assert len(set(chosen)) == min(pool, count) and chosen == sorted(chosen) and 0 <= chosen[0] <= chosen[-1] < pool
    gaps = torch.tensor(chosen).diff().tolist()
    assert not gaps or max(gaps) - min(gaps) <= 1


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
    assert encoded(tmp_path, alone=alone, data="score") == Given((5, 6, 8)) and len(asked) == 21


def test_of_a_large_pool_some_are_scored(tmp_path):
    asked = []
    alone = lambda index: asked.append(index) or float(index)  # noqa: E731
    assert best_alone(100, 3, 10, alone, tmp_path / "scores.json", lambda *_: None) == (5, 15, 25)
    assert len(asked) == 10
    with pytest.raises(UserError, match="best of 2"):
        best_alone(20, 3, 2, alone, tmp_path / "others.json", lambda *_: None)
