"""The walk through the layers against the model's own forward pass."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from reproducer.models.architecture import architecture_of
from reproducer.models.walk import LayerWalk, frozen
from tests.families import SIX, Double, family_model, family_shapes, layers_of
from tests.families import ZOO as FAMILIES
from tests.helpers import close, decoder_layers, examples, logits, rand, randn, tiny, tokens


def walked(model, ids):
    """States behind the last layer."""
    walk = LayerWalk(model, ids.shape[1])
    with torch.no_grad():
        hidden = walk.embed(ids)
        for index in range(len(walk.layers)):
            hidden = walk.run(index, hidden)
        return walk, hidden


def check(model, ids):
    """The walk calls what the forward pass calls, so that all states are the same bits."""
    walk, hidden = walked(model, ids)
    with torch.no_grad():
        output = architecture_of(model).decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        assert torch.equal(walk.finish(hidden), output)
        losses = walk.losses(hidden, ids)
    expected = F.cross_entropy(logits(model, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    assert close(losses.flatten(), expected, 1e-5 if expected.dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("kind", SIX)
def test_equals_the_forward_pass_of_every_family(kind):
    check(family_model(kind, **FAMILIES[kind]), tokens(3, 17))


@examples(25)
@given(shape=family_shapes(), batch=st.integers(1, 4), length=st.integers(2, 12))
def test_equals_the_forward_pass_for_random_shapes(shape, batch, length):
    check(family_model(**shape), tokens(batch, length))


@pytest.mark.parametrize("kind", SIX)
def test_the_gradient_behind_the_last_layer(kind):
    """Through final norm, projection, head, scaling and capping: as autograd gives it on all logits at once."""
    model, ids, kept = family_model(kind, **FAMILIES[kind]), tokens(3, 9), []
    last = layers_of(model)[-1]

    def keep(module, given, output):
        kept.append(output if isinstance(output, torch.Tensor) else output[0])
        kept[0].retain_grad()

    with Double():
        hook = last.register_forward_hook(keep)
        output = model(ids, use_cache=False).logits
        hook.remove()
        weights = rand(3, 8, dtype=torch.float64)
        losses = F.cross_entropy(output[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        (losses * weights.flatten()).sum().backward()
        leaf = kept[0].detach().requires_grad_()
        (LayerWalk(model, 9).losses(leaf, ids) * weights).sum().backward()
    assert close(leaf.grad, kept[0].grad, 1e-10)


def test_uneven_layers(uneven_model):
    check(uneven_model, tokens(2, 9))


def test_a_layer_in_place_of_the_models_own():
    model, other = tiny(seed=0), tiny(seed=1)
    walk, hidden = LayerWalk(model, 7), randn(2, 7, 32)
    with torch.no_grad():
        replaced = walk.run(1, hidden, decoder_layers(other)[1])
        assert close(replaced, LayerWalk(other, 7).run(1, hidden), 1e-6)
        assert not close(replaced, walk.run(1, hidden), 1e-2)


def test_frozen_restores_mixed_flags_and_modes_after_an_error():
    model = tiny()
    for place, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(place % 3 == 0)
    for place, module in enumerate(model.modules()):
        module.training = place % 2 == 0
    flags = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert modes == [module.training for module in model.modules()]
