"""Heads and channels of all layers ranked together."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of, layer_shape, parameter_count, unit_parameters
from reproducer.pruning.allocation import TOLERANCE, allocate, parameters_to_remove, remove_lowest
from reproducer.pruning.cut import Cut
from reproducer.pruning.plan import Plan, units_of
from tests.families import family_model, family_shapes, layers_of
from tests.helpers import examples, rand, tiny


def random_scores(model, layers, seed):
    generator, architecture = np.random.default_rng(seed), architecture_of(model)
    shapes = {index: layer_shape(layers_of(model)[index], architecture) for index in layers}
    return {
        index: {kind: rand(shape.counts[kind], seed=generator) for kind in ("heads", "channels")}
        for index, shape in shapes.items()
    }


def applied(model, kept):
    plan = Plan(units_of(model, architecture_of(model)), kept)
    return plan.apply(model)


@examples(40)
@given(family_shapes(), st.floats(0, 0.6))
def test_what_goes_scores_lowest_and_is_as_much_as_asked_for(shape, ratio):
    model = family_model(**shape)
    architecture, layers = architecture_of(model), layers_of(model)
    scores = random_scores(model, [0, 2], shape["seed"])
    remove = round(ratio * parameter_count(model))
    try:
        kept = remove_lowest(model, architecture, scores, remove)
    except UserError:
        return  # too much, or too coarse a model: the tests below
    removed = parameter_count(model) - parameter_count(applied(model, kept))
    assert abs(removed - remove) <= TOLERANCE * parameter_count(model)
    gone = []
    for kind, of_kind in kept.items():
        for index, units in of_kind.items():
            assert units
            others = [unit for unit in range(len(scores[index][kind])) if unit not in units]
            values = scores[index][kind]
            assert not others or values[others].max() <= values[units].min()  # within a layer always
            gone += values[others].tolist()
    # Over the layers: what stays of a lower score than something that went is the last of its kind, or was too large.
    smallest = min(
        unit_parameters(layers[i], architecture, architecture.kind(kind))
        for i in (0, 2)
        for kind in ("heads", "channels")
    )
    for score in gone:
        for other_kind, of_kind in kept.items():
            for other, units in of_kind.items():
                lowest = scores[other][other_kind][units].min().item()
                cost = unit_parameters(layers[other], architecture, architecture.kind(other_kind))
                assert lowest >= score or len(units) == 1 or cost > smallest


def test_nothing_to_remove_keeps_all():
    model = tiny()
    kept = remove_lowest(model, architecture_of(model), random_scores(model, [1, 2], 0), 0)
    assert kept == {"heads": {1: [0, 1, 2, 3], 2: [0, 1, 2, 3]}, "channels": {1: list(range(24)), 2: list(range(24))}}


def test_a_kind_without_scores_is_not_cut():
    model = tiny()
    kept = remove_lowest(model, architecture_of(model), {1: {"channels": torch.arange(24)}}, 5 * 96)
    assert kept == {"heads": {}, "channels": {1: list(range(5, 24))}}


def test_a_head_too_large_for_the_rest_is_passed_over():
    model = tiny()  # a head has 1024 parameters, a channel 96
    scores = {1: {"heads": torch.tensor([0.0, 1, 2, 3]), "channels": torch.arange(24) + 10.0}}
    kept = remove_lowest(model, architecture_of(model), scores, 1024 + 3 * 96)
    assert kept == {"heads": {1: [1, 2, 3]}, "channels": {1: list(range(3, 24))}}


@pytest.mark.parametrize("step", [5, 8])
def test_channels_in_blocks(step):
    model = tiny()
    kept = remove_lowest(model, architecture_of(model), {1: {"channels": torch.arange(24)}}, 9 * 96, step)
    assert len(kept["channels"][1]) % step == 0 and kept["channels"][1][-1] == 23


def test_what_cannot_be_reached():
    model = tiny()
    architecture = architecture_of(model)
    scores = {1: {"channels": torch.arange(24)}}
    most = 23 * 96
    assert remove_lowest(model, architecture, scores, most)["channels"] == {1: [23]}
    with pytest.raises(UserError, match=r"cannot be removed: .* of layers 1 to 1 holds .* at the most"):
        remove_lowest(model, architecture, scores, most + round(0.01 * parameter_count(model)))
    with pytest.raises(UserError, match=r"within 0\.5%: the nearest cut removes"):
        remove_lowest(model, architecture, {1: {"heads": torch.arange(4)}}, 500)


@pytest.mark.parametrize("groups", [4, 2])
def test_a_structure_ratio_stands_for_what_it_removes_of_every_layer(groups):
    model, cut = tiny(groups=groups, layers=5), Cut(structure_ratio=0.5)
    scores = random_scores(model, [1, 2, 3], 0)
    kept = allocate(copy.deepcopy(model), architecture_of(model), scores, cut)
    removed = parameter_count(model) - parameter_count(applied(model, kept))
    assert parameters_to_remove(model, [1, 2, 3], cut) == removed
    assert parameters_to_remove(model, [1], Cut(ratio=0.2)) == round(0.2 * parameter_count(model))
