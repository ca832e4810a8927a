"""Shortened LLaMA: which layers go, and how many."""

import copy

import pytest
import torch

from reproducer import prune
from reproducer.errors import UserError
from tests.families import family_model, layers_of
from tests.helpers import decoder_layers, logits, sample_gradients, tiny, tokens
from tests.methods.learning import own_text

NAME = "shortened-llama"
FAMILIES = ("llama grouped tied", "phi3 grouped tied", "opt")


def family_settings(name):
    from tests.families import ZOO

    return ZOO[name]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("criterion", ["ppl", "taylor"])
def test_identity_layers_go(name, criterion):
    """The others stay: nothing predicts the model's own text better than itself."""
    model, identities = family_model(name, layers=7, **family_settings(name)), [1, 2, 4]
    for index in identities:
        for path in ("self_attn.o_proj", "self_attn.out_proj", "mlp.down_proj", "fc2"):
            for parameter in module_parameters(layers_of(model)[index], path):
                parameter.data.zero_()
    ids = own_text(model, samples=48)
    plan = prune(model, NAME, ids, structure_ratio=3 / 6, layers=range(7), criterion=criterion, keep_first=1)
    assert plan.removed_layers == identities
    torch.testing.assert_close(logits(plan.apply(model), ids), logits(model, ids))


def module_parameters(layer, path):
    found = dict(layer.named_modules()).get(path)
    return [] if found is None else list(found.parameters())


def test_the_perplexity_is_that_of_the_model_without_the_layer():
    model, ids = tiny(layers=6), tokens(5, 9)
    losses = {}
    for index in range(6):
        twin = copy.deepcopy(model)
        del twin.model.layers[index]
        losses[index] = twin(ids, labels=ids, use_cache=False).loss.item()
    for count in (1, 3, 5):
        plan = prune(model, NAME, ids, structure_ratio=count / 6, layers=range(6), keep_first=0, keep_last=0)
        assert plan.removed_layers == sorted(sorted(losses, key=losses.get)[:count])


def test_taylor_scores_are_sums_over_the_weights_of_a_layer():
    model, ids = tiny("qwen2", layers=6, groups=2), tokens(5, 9)
    scores = {}
    for index, members in sample_gradients(model, ids, range(6)).items():
        block = decoder_layers(model)[index]
        scores[index] = 0.0
        for name, gradients in members.items():
            weight = block.get_submodule(name).weight.detach()
            columns = name.endswith(("o_proj", "down_proj"))
            scores[index] += ((weight.T if columns else weight) * gradients.mean(0)).abs().sum().item()
    for count in (1, 3, 5):
        cut = {"structure_ratio": count / 6, "layers": range(6), "criterion": "taylor"}
        plan = prune(model, NAME, ids, **cut, keep_first=0, keep_last=0)
        assert plan.removed_layers == sorted(sorted(scores, key=scores.get)[:count])


@pytest.mark.parametrize(
    ("count", "layers", "more", "may_go"),
    [
        (32, None, {}, range(4, 30)),
        (32, range(32), {}, range(4, 30)),
        (30, range(30), {}, range(4, 28)),
        (32, range(10, 20), {}, range(10, 20)),
        (32, range(2, 20), {"keep_first": 0}, range(2, 20)),
        (32, range(32), {"keep_first": 10, "keep_last": 11}, range(10, 21)),
        (12, range(12), {}, range(3, 11)),
        (6, range(6), {}, range(1, 6)),
        (3, range(3), {}, range(3)),
    ],
)
def test_which_layers_may_go(count, layers, more, may_go):
    model = tiny(layers=count, channels=4, hidden=8, heads=2, head_dim=4)
    share = 1 - 0.5 / len(may_go) if count > 3 else 0.7  # all of them but one
    plan = prune(model, NAME, tokens(1, 4), structure_ratio=share, layers=layers, **more)
    assert set(plan.removed_layers) < set(may_go) and len(plan.removed_layers) == len(may_go) - 1


def test_at_least_one_goes():
    model = tiny(layers=6)
    assert len(prune(model, NAME, tokens(2, 6), structure_ratio=0.1).removed_layers) == 1
    assert len(prune(model, NAME, tokens(2, 6), ratio=0.01).removed_layers) == 1


def test_too_much():
    with pytest.raises(UserError, match=r"ratio of 0\.8 cannot be reached: the 2 layers that may go hold"):
        prune(tiny(layers=6), NAME, tokens(2, 6), ratio=0.8, layers=[2, 3])


@pytest.mark.parametrize("more", [{"keep_first": 6}, {"keep_first": 4, "keep_last": 2}, {"layers": [0]}])
def test_nothing_left_to_remove(more):
    with pytest.raises(UserError, match=r"may remove none of the 6 layers: of layers"):
        prune(tiny(layers=6), NAME, tokens(2, 6), ratio=0.2, **more)
