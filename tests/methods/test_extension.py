"""Methods in a user's own modules, of every shape: named as `module:attribute`, nothing of the package changed."""

import pytest
import torch

from reproducer import prune
from reproducer.errors import UserError
from reproducer.methods.registry import METHODS, Decision, Request, Rule, register
from reproducer.pruning.statistics import InputNorm
from tests.helpers import decoder_layers, tiny, tokens

# Training.


class Killed(Exception):
    pass


# A method that misbehaves.


def state_of(model):
    model_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    attributes = {path: {name for name in vars(module)} for path, module in model.named_modules()}
    grads = [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]
    return model_state, flags, modes, hooks, attributes, list(model.named_modules()), grads


def assert_state(model, expected):
    found = state_of(model)
    assert found[1:6] == expected[1:6]
    assert found[0].keys() == expected[0].keys()
    assert all(torch.equal(found[0][name], tensor) for name, tensor in expected[0].items())
    for old, new in zip(expected[6], found[6], strict=True):
        assert (old is None and new is None) or torch.equal(old, new)


def rude(model):
    """Everything that a method should not do to a model, but for writing over its weights."""
    layer = decoder_layers(model)[1]
    model.train()
    model.requires_grad_()
    layer.mlp.register_forward_hook(lambda *_: None)
    layer.mlp.forward = lambda hidden: hidden
    layer.mlp.up_proj = torch.nn.Identity()
    layer.mlp.extra = torch.nn.Linear(2, 2)
    layer.self_attn.register_buffer("mask", torch.ones(3))
    layer.self_attn.q_proj.weight = torch.nn.Parameter(torch.zeros(2, 2))
    layer.self_attn.k_proj.weight.data = torch.zeros(2, 2)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    torch.manual_seed(99)


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("where", ["train", "decide"])
def test_the_model_is_left_as_found_whatever_a_method_does(raises, where):
    model, ids = tiny(), tokens(2, 6)
    model(ids, labels=ids).loss.backward()
    for place, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(place % 3 != 0)
    model.train()
    model.model.layers[0].eval()
    model.model.layers[2].register_forward_hook(lambda *_: None)
    before, random = state_of(model), torch.get_rng_state()

    def act(request):
        rude(request.model)
        if raises:
            raise Killed

    def decide(request):
        if where == "decide":
            act(request)
        return request.keep({"heads": {1: [0, 1]}})

    rule = Decision(decide, train=act if where == "train" else None)
    with registered(rule) as name:
        if raises:
            with pytest.raises(Killed):
                prune(model, name, ids, structure_ratio=0.25)
        else:
            assert prune(model, name, ids, structure_ratio=0.25).kept_heads == {1: [0, 1]}
    assert_state(model, before)
    assert torch.equal(torch.get_rng_state(), random)


class registered:
    """A method of this rule, for as long as the block lasts."""

    def __init__(self, made, **more):
        self.made, self.more = made, more

    def __enter__(self):
        trains = isinstance(self.made, Decision) and self.made.train is not None
        register("for-a-test", label="For a test", source="none", trains=trains, **self.more)(lambda: self.made)
        return "for-a-test"

    def __exit__(self, *_):
        METHODS._things.pop("for-a-test")


def test_weights_written_over_are_an_error():
    def train_(request: Request):
        with torch.no_grad():
            decoder_layers(request.model)[0].mlp.up_proj.weight.mul_(2)

    rule = Decision(lambda request: request.keep({"heads": {1: [0]}}), train=train_)
    with registered(rule) as name, pytest.raises(UserError, match="changed the model's weights"):
        prune(tiny(), name, tokens(2, 6), structure_ratio=0.25)


def test_a_plan_that_does_not_fit_is_refused_where_it_was_decided():
    rule = Decision(lambda request: request.keep({"heads": {1: [17]}}))
    with registered(rule) as name, pytest.raises(UserError, match=r"keeps heads \[17\] of layer 1"):
        prune(tiny(), name, tokens(2, 6), structure_ratio=0.25)


def test_what_is_neither_rule_nor_decision_is_refused():
    with registered(7) as name, pytest.raises(UserError, match="gives a int; it should give a Rule or a Decision"):
        prune(tiny(), name, tokens(2, 6), structure_ratio=0.25)


def test_a_statistic_of_inputs_is_for_outputs_alone():
    with pytest.raises(UserError, match=r'InputNorm\(\) exists for.*\n.*members="outputs"'):
        Rule((InputNorm(),), lambda vectors, _: vectors[InputNorm()])


def test_a_parameter_without_a_default_is_refused():
    with pytest.raises(UserError, match="without a default: p"):
        register("for-a-test", label="For a test", source="none")(lambda p: None)
