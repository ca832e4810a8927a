"""Every declared family: what surgery leaves computes what the whole model does with the removed weights at zero.

Everything here is float64 throughout (`Double`), so that the two differ by the order of their sums alone: 1e-16 of the
largest term, which a few layers of random weights do not multiply by more than 1e4.
"""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM

from reproducer.models.architecture import architecture_of, layer_shape, parameter_count
from reproducer.models.walk import LayerWalk
from reproducer.pruning.plan import Plan, units_of
from reproducer.pruning.surgery import remove_layers, sliced_layer, sliced_members
from tests.families import LENGTH, SIX, ZOO, Double, family_model, family_shapes, layers_of, random_kept, zeroed
from tests.helpers import close, examples, logits, tokens

EXACT = 1e-10


def plan_of(model, kept):
    """A plan of only these units."""
    by_kind = {kind: {index: of[kind] for index, of in kept.items() if kind in of} for kind in ("heads", "channels")}
    return Plan(units_of(model, architecture_of(model)), by_kind)


def cut(model, kept):
    """A copy of `model` with only these units."""
    return plan_of(model, kept).apply(model)


def check(model, kept, ids):
    plan = plan_of(model, kept)
    smaller = plan.apply(model)
    with Double():
        assert close(logits(smaller, ids), logits(zeroed(model, kept), ids), EXACT)
    assert parameter_count(smaller) == plan.parameters_left(model)
    assert parameter_count(model) - parameter_count(smaller) == plan.parameters_removed(model)
    in_place = copy.deepcopy(model)
    assert plan.apply_(in_place) is in_place
    ours, theirs = smaller.state_dict(), in_place.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    architecture = architecture_of(model)
    for index, of_layer in kept.items():
        shape = layer_shape(layers_of(smaller)[index], architecture)
        assert all(shape.counts[kind] == len(units) for kind, units in of_layer.items())
    return smaller


def written(model, ids, steps):
    """Greedy continuation [batch, length + steps], every step a forward pass over all tokens."""
    for _ in range(steps):
        ids = torch.cat([ids, logits(model, ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids


def generated(model, ids, steps, **settings):
    mask = torch.ones_like(ids)
    return model.generate(ids, max_new_tokens=steps, do_sample=False, attention_mask=mask, pad_token_id=0, **settings)


@pytest.fixture(params=SIX)
def model(request):
    return family_model(request.param, **ZOO[request.param])


@pytest.mark.parametrize("kind", ZOO)
def test_sliced_equals_masked(kind):
    """Also when the smaller model is cut again."""
    model = family_model(kind, **ZOO[kind])
    ids, first = tokens(2, 13), random_kept(model, seed=3)
    before = logits(model, ids)
    once = check(model, first, ids)
    assert not close(logits(once, ids), before, 1e-2)
    check(once, random_kept(once, seed=4), ids)
    assert torch.equal(logits(model, ids), before)


@examples(60)
@given(shape=family_shapes(), seed=st.integers(0, 999))
def test_sliced_equals_masked_for_random_shapes(shape, seed):
    model = family_model(**shape)
    check(model, random_kept(model, seed), tokens(2, 9))


def test_generation_with_a_cache(model):
    """Greedy text of the sliced model, with its key-value cache, is that of the masked one without."""
    ids, kept = tokens(2, 5), random_kept(model, seed=6)
    with Double():
        expected = written(zeroed(model, kept), ids, 12)
        assert torch.equal(generated(cut(model, kept), ids, 12, use_cache=True), expected)


def test_a_sliced_layer_shares_what_is_not_cut(model):
    kept, architecture, ids = random_kept(model, seed=4), architecture_of(model), tokens(2, 9)
    before, attributes = copy.deepcopy(model.state_dict()), [vars(module).copy() for module in model.modules()]
    smaller = cut(model, kept)
    walk, pruned = LayerWalk(model, 9), LayerWalk(smaller, 9)
    with torch.no_grad(), Double():
        hidden = expected = walk.embed(ids)
        for index, layer in enumerate(layers_of(model)):
            lean = sliced_layer(layer, architecture, kept[index])
            hidden, expected = walk.run(index, hidden, lean), pruned.run(index, expected)
            cut_weights = {f"{path}." for path in sliced_members(layer, architecture, kept[index])}
            whole = dict(layer.named_parameters())
            for name, parameter in lean.named_parameters():
                assert (parameter is whole[name]) != name.startswith(tuple(cut_weights))
    assert close(hidden, expected, EXACT)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [vars(module) for module in model.modules()] == attributes


def test_a_cut_model_can_be_copied_stored_and_trained(model):
    ids = tokens(2, 6)
    smaller = cut(model, random_kept(model, seed=2))
    expected = logits(smaller, ids)
    for twin in (copy.deepcopy(smaller), pickle.loads(pickle.dumps(smaller))):
        assert torch.equal(logits(twin, ids), expected)
    smaller.train()(ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in smaller.parameters())


def test_the_kind_of_attention_can_be_chosen_afterwards(model):
    smaller, ids = cut(model, random_kept(model, seed=2)), tokens(2, 9)
    expected = logits(smaller, ids)
    smaller.set_attn_implementation("eager")
    for layer in layers_of(smaller):
        attention = layer.get_submodule(architecture_of(model).attention)
        assert attention.config._attn_implementation == "eager"
    assert close(logits(smaller, ids), expected, 1e-5)  # this softmax is in float32


class Skip(nn.Module):
    """A decoder layer that does nothing."""

    def forward(self, hidden, **arguments):
        return hidden


@pytest.mark.parametrize("removed", [[1], [0, 2]], ids=str)
def test_whole_layers(model, removed, tmp_path):
    """Without some layers a model is what it is with them skipped; also in a cache, and when it is read again."""
    ids, smaller, skipping = tokens(2, 7), copy.deepcopy(model), copy.deepcopy(model)
    for index in removed:
        layers_of(skipping)[index] = Skip()
    remove_layers(smaller, removed)
    count = len(layers_of(model)) - len(removed)
    assert len(layers_of(smaller)) == smaller.config.num_hidden_layers == count
    assert model.config.num_hidden_layers == len(layers_of(model)) == 3
    expected = logits(skipping, ids)
    assert torch.equal(logits(smaller, ids), expected) and not close(expected, logits(model, ids), 1e-2)
    assert torch.equal(generated(smaller, ids, 8, use_cache=True), written(smaller, ids, 8))
    lost = sum(parameter_count(layers_of(model)[index]) for index in removed)
    assert parameter_count(smaller) == parameter_count(model) - lost
    smaller.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    # Read from a file, weights lie elsewhere in memory, and products of float64 may be summed in another order.
    assert close(logits(again, ids), expected, 1e-12)


WITHOUT = {"sliding_window": LENGTH, "final_logit_softcapping": None, "logits_scaling": 1.0}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ZOO for name in WITHOUT if ZOO[kind].get(name) is not None]
)
def test_the_zoo_holds_what_it_says(kind, name):
    """Windows, scaling and capping have an effect in these models, or the tests above would prove little."""
    ids = tokens(2, 17)
    model, other = (family_model(kind, **{**ZOO[kind], **more}) for more in ({}, {name: WITHOUT[name]}))
    assert not close(logits(other, ids), logits(model, ids), 1e-2)
