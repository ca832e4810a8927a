"""Sliced models against masked ones; plans: what they touch, what they refuse, how they are stored."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from reproducer import Plan, prune
from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of, parameter_count
from reproducer.pruning.plan import units_of
from tests.families import random_kept
from tests.helpers import examples, logits, shapes, tiny, tokens


def random_plan(model, seed=0, layers=None):
    """Any units of any layers, at least one of each kind; some layers keep all, some are absent."""
    units = units_of(model, architecture_of(model))
    kept = {"heads": {}, "channels": {}}
    for index, of_layer in random_kept(model, seed).items():
        for kind, of_kind in of_layer.items() if layers is None or index in layers else ():
            kept[kind][index] = of_kind
    return Plan(units, kept, "by chance", {"seed": seed, "parameters": {"p": 2.0}})


def storages(model):
    tensors = [*model.parameters(), *model.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def test_the_base_is_left_alone_and_nothing_is_shared(zoo_model):
    model = copy.deepcopy(zoo_model)
    before, ids = copy.deepcopy(model.state_dict()), tokens(2, 6)
    expected = logits(model, ids)
    smaller = random_plan(model, seed=1).apply(model)
    assert not storages(model) & storages(smaller)
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.fill_(0.5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(model, ids), expected)
    widths = {name: (module.in_features, module.out_features) for name, module in linears(model)}
    assert widths == {name: tuple(module.weight.shape[::-1]) for name, module in linears(model)}


def linears(model):
    return [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def test_flags_and_modes_are_carried_over():
    model = tiny(attention_bias=True)
    for place, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(place % 2 == 0)
    for place, module in enumerate(model.modules()):
        module.training = place % 3 == 0
    smaller = random_plan(model, seed=2).apply(model)
    names = dict(model.named_parameters())
    assert {n: p.requires_grad for n, p in smaller.named_parameters()} == {n: p.requires_grad for n, p in names.items()}
    assert [m.training for m in smaller.modules()] == [m.training for m in model.modules()]


def test_a_plan_is_refused_where_it_does_not_fit():
    model = tiny()
    plan = prune(model, "magnitude", structure_ratio=0.25, layers=[1])
    smaller = plan.apply(model)
    for other in (smaller, tiny(layers=4), tiny(channels=25), tiny(hidden=64), tiny(head_dim=4), tiny(groups=2)):
        for use in (plan.apply, plan.apply_, plan.parameters_left, plan.parameters_removed):
            before = parameter_count(other)
            with pytest.raises(UserError, match="another model"):
                use(other)
            assert parameter_count(other) == before


# Storage.


@examples(15)
@given(shape=shapes(), seed=st.integers(0, 999))
def test_round_trip(tmp_path_factory, shape, seed):
    plan = random_plan(tiny(**shape), seed)
    path = tmp_path_factory.mktemp("plan") / "plan.safetensors"
    plan.save(path)
    loaded = Plan.load(path)
    assert loaded == plan and loaded.scores == {}
    assert (loaded.method, loaded.settings, loaded.layers) == (plan.method, plan.settings, plan.layers)
    assert all(type(unit) is int for units in loaded.kept_channels.values() for unit in units)


def test_a_plan_for_llama_7b_is_small(tmp_path):
    config = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    random_plan(model).save(tmp_path / "plan")
    assert (tmp_path / "plan").stat().st_size < 2**16


def plan_file(path, masks, **changes):
    header = {"format": 2, "method": "vector", "settings": {}, "removed_layers": []}
    header |= {"units": {"0": {"heads": 4, "channels": 9}}, **changes}
    text = json.dumps({name: value for name, value in header.items() if value is not None})
    save_file({name: torch.tensor(mask, dtype=torch.uint8) for name, mask in masks.items()}, path, {"plan": text})


RIGHT = {"kept.0.channels": [255, 0]}
NO_PLANS = {
    "a missing file": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "an empty file": lambda path: path.write_bytes(b""),
    "a part of one": lambda path: (plan_file(path, RIGHT), path.write_bytes(path.read_bytes()[:-1])),
    "another beginning": lambda path: (plan_file(path, RIGHT), path.write_bytes(path.read_bytes()[9:])),
    "weights": lambda path: save_file({"model.weight": torch.zeros(2)}, path),
    "another format": lambda path: plan_file(path, RIGHT, format=1),
    "no units": lambda path: plan_file(path, RIGHT, units=None),
    "a list of units": lambda path: plan_file(path, RIGHT, units=[]),
    "units without channels": lambda path: plan_file(path, RIGHT, units={"0": {"heads": 4}}),
    "no method": lambda path: plan_file(path, RIGHT, method=None),
    "a number of settings": lambda path: plan_file(path, RIGHT, settings=1),
    "of nine channels eight bits": lambda path: plan_file(path, {"kept.0.channels": [255]}),
    "a mask too long": lambda path: plan_file(path, {"kept.0.channels": [255, 0, 0]}),
    "another layer": lambda path: plan_file(path, {"kept.7.channels": [255, 0]}),
    "another kind": lambda path: plan_file(path, {"kept.0.norms": [255, 0]}),
    "another entry": lambda path: plan_file(path, {"weight": [255, 0]}),
    "a mask that keeps nothing": lambda path: plan_file(path, {"kept.0.channels": [0, 0]}),
}


@pytest.mark.parametrize("name", NO_PLANS)
def test_a_file_that_is_no_plan(tmp_path, name):
    plan_file(tmp_path / "right", RIGHT)
    assert Plan.load(tmp_path / "right").kept_channels == {0: list(range(8))}
    NO_PLANS[name](tmp_path / "plan")
    with pytest.raises(UserError, match=r"no pruning plan|no plan at"):
        Plan.load(tmp_path / "plan")
