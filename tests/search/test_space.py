"""The solution space: which samples a trial's parameters stand for, and which baselines it holds."""

from __future__ import annotations

import json
from dataclasses import replace

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FixedTrial
from search_objective import Objective

from reproducer.errors import UserError
from reproducer.methods.registry import get
from reproducer.search import prepare as prepare_module
from reproducer.search.encoding import Given, Indices, Ranked
from reproducer.search.prepare import best_alone, prepare, principal_components, spread, standardised
from reproducer.search.settings import SearchSettings
from reproducer.search.space import TAYLOR, Space
from tests.helpers import examples

SPACE = Space(pool=20, samples=3, fixed=(9, 1, 5))
NAMES = ("vector", "llm-pruner-e1", "llm-pruner-e2", "llm-pruner-mix", "magnitude")


def held(space):
    return {name for name in NAMES if space.embed(name) is not None}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ({}, {"vector", "llm-pruner-e1", "llm-pruner-e2"}),
        ({"coarse_second": (0.0,), "fine_second": (0.0,)}, {"vector", "llm-pruner-e1"}),
        ({"coarse_second": ("only",), "fine_second": ("only",)}, {"llm-pruner-e2"}),
        ({"taylor": "first"}, {"llm-pruner-e1"}),  # w/o I1
        ({"taylor": "second"}, {"llm-pruner-e2"}),  # w/o I2
        ({"coarse_second": [1e6], "fine_second": [1.0, 1e6]}, {"llm-pruner-mix"}),
        ({"coarse_second": [1e6], "fine_second": [1e6]}, set()),
    ],
)
@pytest.mark.parametrize("data", ["search", "random"])
def test_a_space_holds_the_baselines_whose_values_it_offers(metric, expected, data):
    space = replace(SPACE, data=data, **metric)
    assert held(space) == expected
    for name in expected:
        point = space.embed(name)
        candidate = space.suggest(FixedTrial(point))
        assert candidate.samples == space.fixed
        assert space.taylor or all(point[factor] in values for factor, values in space.factors.items())


@pytest.mark.parametrize("taylor", ["first", "second"])
def test_a_fixed_order_leaves_only_the_data_to_search(taylor):
    space = replace(SPACE, taylor=taylor)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    candidate = space.suggest(trial)
    assert set(trial.params) == set(space.coded.names)
    assert set(get("adapruner").make_rule(candidate.parameters).needs) == set(get(TAYLOR[taylor]).make_rule({}).needs)
    point = space.embed(TAYLOR[taylor])
    assert space.suggest(FixedTrial(point)).samples == SPACE.fixed


def test_a_point_of_a_space_with_smaller_weights_ranks_as_the_baseline():
    assert replace(SPACE, alpha_max=0.5).embed("vector")["alpha1"] == 0.5


def test_a_space_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="pool has 2"):
        Space(pool=2, samples=3, fixed=(0, 1))
    with pytest.raises(UserError, match="no value of fine_scale"):
        replace(SPACE, fine_scale=())


@pytest.mark.parametrize(("pool", "samples"), [(20, 3), (7, 7), (23, 5)])
def test_ten_spaces_are_contiguous_parts_of_which_each_gives_a_sample(pool, samples):
    space = Space(pool, samples, tuple(range(samples)), data="ten-spaces")
    parts = space.parts()
    assert [passage for part in parts for passage in part] == list(range(pool)) and len(parts) == samples
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert space.coded.embed([part[-1] for part in reversed(parts)]) == {
        f"sample_{place}": len(part) - 1 for place, part in enumerate(parts)
    }
    if pool > samples:
        assert held(space) == set()  # the draw has two samples of one part


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


def prepared(space, encoding, directory, objective=None):
    settings = SearchSettings(trials=5, encoding=encoding)
    return prepare(space, settings, objective or Objective(), directory, lambda *_: None)


def test_an_ordered_pool_has_passages_that_are_alike_beside_each_other(tmp_path):
    space = prepared(SPACE, "ordered", tmp_path)
    far = [abs(passage - 7) for passage in space.coded.parts[0]]
    assert far in (sorted(far), sorted(far, reverse=True)) and len(far) == 20
    assert held(space) == held(SPACE)
    assert space.suggest(FixedTrial(space.embed("vector"))).samples == (1, 5, 9)


def test_ten_ordered_spaces_are_the_same_parts_ordered_within(tmp_path):
    space = prepared(replace(SPACE, data="ten-spaces"), "ordered", tmp_path)
    assert [sorted(part) for part in space.coded.parts] == [list(part) for part in space.parts()]
    assert any(list(part) != sorted(part) for part in space.coded.parts)


@pytest.mark.parametrize("data", ["search", "ten-spaces"])
def test_features_are_found_once(tmp_path, data):
    space = replace(SPACE, data=data)
    first, second = Objective(), Objective()
    coded = prepared(space, "features", tmp_path, first).coded
    assert len(coded.names) == 2  # the states lie on a line
    assert prepared(space, "features", tmp_path, second).coded == coded
    assert first.text_tokens > 0 == second.text_tokens
    samples = coded.suggest(FixedTrial({"weight_0": 1.0, "weight_1": 0.0}))  # the highest losses
    expected = (17, 18, 19) if data == "search" else (0, 12, 19)
    assert samples == expected


@pytest.mark.parametrize("encoding", ["ordered", "features"])
def test_of_a_large_pool_passages_all_over_it_are_offered_and_the_baselines_draw(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(prepare_module, "FEATURED", 10)
    coded = prepared(Space(pool=1000, samples=3, fixed=(1, 5, 9)), encoding, tmp_path).coded
    offered = sorted(coded.parts[0] if encoding == "ordered" else coded.groups[0][0])
    assert len(offered) == 13 and {1, 5, 9} <= set(offered)
    assert torch.tensor(offered[3:]).diff().tolist() == [100] * 9


@pytest.mark.parametrize("data", ["random", "search"])
def test_bare_indices_and_given_data_need_no_features(tmp_path, data):
    coded = prepared(replace(SPACE, data=data), "indices", tmp_path).coded
    assert isinstance(coded, Given if data == "random" else Indices)
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
    class Alone(Objective):
        def bowl(self, method, samples, settings):
            assert method == "llm-pruner-e2" and len(samples) == 1
            return float("inf") if samples[0] == 7 else 50 + abs(samples[0] - 7)

    space, shown = replace(SPACE, data="score"), []
    tell = lambda *of: shown.append(of)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        best_alone(space, 256, Alone(dies_at=9), tmp_path, tell)
    rest = Alone()
    assert best_alone(space, 256, rest, tmp_path, tell) == (5, 6, 8)  # of equals, the first
    assert rest.evaluated == 12
    found = json.loads((tmp_path / "scores.json").read_text())
    assert (found["pool"], found["scored"], found["scores"]["7"], found["scores"]["0"]) == (20, 20, None, 57)
    assert shown[-1][:2] == (19, 20)
    coded = prepared(space, None, tmp_path, objective := Alone()).coded
    assert coded == Given((5, 6, 8)) and objective.evaluated == 0


def test_of_a_large_pool_some_are_scored(tmp_path):
    objective = Objective()
    assert best_alone(replace(SPACE, pool=100, data="score"), 10, objective, tmp_path, lambda *_: None) == (5, 15, 25)
    assert objective.evaluated == 10
    with pytest.raises(UserError, match="best of 2"):
        best_alone(SPACE, 2, objective, tmp_path, lambda *_: None)
