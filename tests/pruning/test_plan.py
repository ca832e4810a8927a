"""Plans that do more than keep structures: tensors that change or are added, layers that go as a whole."""

import copy

import pytest
import torch

from reproducer import Plan
from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of, parameter_count
from reproducer.pruning.plan import units_of
from tests.families import SIX, family_model, layers_of
from tests.helpers import close, decoder_layers, logits, randn, tiny, tokens

OUTPUT = "model.layers.1.self_attn.o_proj"


def plan_of(model, heads=None, channels=None, **more):
    return Plan(units_of(model, architecture_of(model)), {"heads": heads or {}, "channels": channels or {}}, **more)


def full_plan(model):
    """Cuts, removes and changes a layer each; adds a bias to what it cut."""
    hidden = model.config.hidden_size
    tensors = {
        f"{OUTPUT}.bias": torch.linspace(-1, 1, hidden),
        "model.layers.1.mlp.down_proj.weight": randn(hidden, 5, seed=1),
        "model.layers.2.input_layernorm.weight": torch.full((hidden,), 0.5),
        "lm_head.weight": randn(61, hidden, seed=2),
    }
    channels = {1: [0, 3, 4, 9, 11], 3: [1, 2]}
    return plan_of(model, {1: [0, 2]}, channels, method="mine", tensors=tensors, removed_layers=[0])


def by_hand(model):
    """What `full_plan` leaves, without the package."""
    twin = copy.deepcopy(model)
    layer, plan = decoder_layers(twin)[1], full_plan(model)
    with torch.no_grad():
        for unit in (1, 3):
            layer.self_attn.o_proj.weight[:, unit * 8 : unit * 8 + 8] = 0
        layer.self_attn.o_proj.bias = torch.nn.Parameter(plan.tensors[f"{OUTPUT}.bias"].clone())
        layer.mlp.down_proj.weight.zero_()
        layer.mlp.down_proj.weight[:, plan.kept_channels[1]] = plan.tensors["model.layers.1.mlp.down_proj.weight"]
        gone = [channel for channel in range(24) if channel not in (1, 2)]
        decoder_layers(twin)[3].mlp.down_proj.weight[:, gone] = 0
        decoder_layers(twin)[2].input_layernorm.weight.fill_(0.5)
        twin.lm_head.weight.copy_(plan.tensors["lm_head.weight"])
        # A layer whose projections give nothing is a layer that is not there.
        decoder_layers(twin)[0].self_attn.o_proj.weight.zero_()
        decoder_layers(twin)[0].mlp.down_proj.weight.zero_()
    return twin


def test_cut_changed_added_and_removed():
    model, ids = tiny(layers=4), tokens(3, 9)
    before = copy.deepcopy(model.state_dict())
    plan = full_plan(model)
    smaller = plan.apply(model)
    assert close(logits(smaller, ids), logits(by_hand(model), ids), 1e-5)
    assert len(decoder_layers(smaller)) == smaller.config.num_hidden_layers == 3
    assert parameter_count(smaller) == plan.parameters_left(model)
    assert plan.parameters_removed(model) == parameter_count(model) - parameter_count(smaller)
    assert model.config.num_hidden_layers == 4 and OUTPUT + ".bias" not in model.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    in_place = copy.deepcopy(model)
    assert plan.apply_(in_place) is in_place
    ours, theirs = smaller.state_dict(), in_place.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    generated = smaller.generate(ids[:1], max_new_tokens=4, do_sample=False, use_cache=True)
    assert torch.equal(generated, smaller.generate(ids[:1], max_new_tokens=4, do_sample=False, use_cache=False))


@pytest.mark.parametrize("kind", SIX)
def test_biases_and_removed_layers_of_every_family(kind):
    """A bias of an output projection is added, or takes the place of the one that is there, behind the cut."""
    model, ids = family_model(kind), tokens(2, 8)
    architecture = architecture_of(model)
    prefix = f"{architecture.layers}.1"
    names = [f"{prefix}.{path}.bias" for path, axis in architecture.modules().items() if axis == 1]
    width = next(iter(units_of(model, architecture).values()))["hidden"]
    tensors = {name: torch.linspace(-1, 1, width).double() for name in names}
    plan = plan_of(model, {1: [0]}, {1: [1, 3]}, tensors=tensors, removed_layers=[2])
    smaller = plan.apply(model)
    assert parameter_count(smaller) == plan.parameters_left(model)
    expected = plan_of(model, {1: [0]}, {1: [1, 3]}, removed_layers=[2]).apply(model)
    for path, axis in architecture.modules().items():
        if axis == 1:
            module = layers_of(expected)[1].get_submodule(path)
            module.bias = torch.nn.Parameter(torch.linspace(-1, 1, width).double())
    assert torch.equal(logits(smaller, ids), logits(expected, ids))


def test_values_take_the_models_dtype_and_flags():
    model = tiny(layers=2, dtype=torch.bfloat16).requires_grad_(False)
    plan = plan_of(model, tensors={f"{OUTPUT}.bias": torch.full((32,), 1 / 3, dtype=torch.float64)})
    bias = plan.apply(model).get_parameter(f"{OUTPUT}.bias")
    assert bias.dtype == torch.bfloat16 and not bias.requires_grad and float(bias[0]) == pytest.approx(1 / 3, rel=1e-2)
    bias.data.fill_(0)
    assert (plan.tensors[f"{OUTPUT}.bias"] != 0).all()


def test_a_changed_embedding_stays_tied():
    model = tiny(tied=True)
    smaller = plan_of(model, tensors={"model.embed_tokens.weight": torch.ones(61, 32)}).apply(model)
    assert smaller.lm_head.weight is smaller.model.embed_tokens.weight
    assert (smaller.lm_head.weight == 1).all() and not (model.lm_head.weight == 1).all()


# What is refused, before anything is changed.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"removed_layers": [4]}, "removes layers .4.; the model has 0 to 3"),
        ({"removed_layers": [-1]}, "removes layers"),
        ({"removed_layers": [0, 1, 2, 3]}, "one has to stay"),
        ({"removed_layers": [2, 1]}, "removes layers"),
        ({"removed_layers": [1], "heads": {1: [0]}}, "layer 1, but removes it as a whole"),
        ({"heads": {7: [0]}}, "layer 7, but the model does not have it"),
        ({"heads": {1: []}}, r"keeps heads \[\] of layer 1, which has 0 to 3"),
        ({"heads": {1: [4]}}, r"keeps heads \[4\] of layer 1"),
        ({"channels": {1: [3, 2]}}, r"keeps channels \[3, 2\] of layer 1"),
        ({"channels": {1: [3, 3]}}, "at least one stays, in ascending order"),
        ({"tensors": {"model.layers.9.mlp.down_proj.bias": torch.ones(32)}}, "which the model does not have"),
        ({"tensors": {"model.layers.x.mlp.down_proj.bias": torch.ones(32)}}, "which the model does not have"),
        ({"tensors": {"model.layers.1.mlp.middle.bias": torch.ones(32)}}, "which the model does not have"),
        ({"tensors": {"model.layers.1.mlp.down_proj.scale": torch.ones(32)}}, "such as model.layers.0.self_attn"),
        ({"tensors": {"": torch.ones(32)}}, "which the model does not have"),
        ({"tensors": {f"{OUTPUT}.bias": torch.ones(31)}}, r"has the shape \(31,\); in the pruned model it has \(32,\)"),
        (
            {"tensors": {f"{OUTPUT}.weight": torch.ones(32, 32)}, "heads": {1: [0]}},
            r"in the pruned model it has \(32, 8\)",
        ),
        (
            {"tensors": {"model.layers.1.mlp.up_proj.bias": torch.ones(24)}, "channels": {1: [0, 5]}},
            r"in the pruned model it has \(2,\)",
        ),
        ({"tensors": {f"{OUTPUT}.bias": torch.ones(32)}, "removed_layers": [1]}, "of a layer that it removes"),
        ({"tensors": {f"{OUTPUT}.bias": torch.full((32,), float("nan"))}}, "no finite numbers"),
        ({"tensors": {f"{OUTPUT}.bias": torch.ones(32, dtype=torch.long)}}, "no finite numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_plan_that_does_not_fit(changes, message):
    model = tiny(layers=4)
    plan = plan_of(model, **changes)
    before = copy.deepcopy(model.state_dict())
    for use in (plan.apply, plan.apply_, plan.parameters_left, plan.check):
        with pytest.raises(UserError, match=message):
            use(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert before.keys() == model.state_dict().keys()


# Storage.


def test_round_trip_with_tensors_and_removed_layers(tmp_path):
    model, ids = tiny(layers=4), tokens(2, 6)
    plan = full_plan(model)
    plan.tensors["model.norm.weight"] = torch.ones(32, dtype=torch.bfloat16)
    plan.save(tmp_path / "plan")
    loaded = Plan.load(tmp_path / "plan")
    assert loaded == plan and loaded.removed_layers == [0] and loaded.tensors.keys() == plan.tensors.keys()
    assert loaded.tensors["model.norm.weight"].dtype == torch.bfloat16
    assert torch.equal(logits(loaded.apply(model), ids), logits(plan.apply(model), ids))


def test_equal_plans_are_equal_bytes(tmp_path):
    """Whatever the order in which their parts were put together, and however their tensors lie in memory."""
    model = tiny(layers=4)
    first, second = full_plan(model), full_plan(model)
    second.tensors = {
        name: tensor.T.contiguous().T if tensor.dim() == 2 else tensor
        for name, tensor in reversed(first.tensors.items())
    }
    second.kept["channels"] = dict(reversed(second.kept_channels.items()))
    assert first == second
    first.save(tmp_path / "a")
    second.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tensors_that_share_memory_are_saved(tmp_path):
    model, bias = tiny(layers=4), torch.arange(32.0)
    names = [f"model.layers.{index}.mlp.down_proj.bias" for index in (1, 2)]
    plan = plan_of(model, tensors=dict.fromkeys(names, bias))
    plan.save(tmp_path / "plan")
    assert Plan.load(tmp_path / "plan") == plan


def test_the_shares_that_go_are_of_the_layers_that_are_cut():
    model = tiny()
    whole = units_of(model, architecture_of(model))[1]
    plan = plan_of(model, {1: list(range(whole["heads"] // 2))}, {1: [0], 2: [0, 1]}, removed_layers=[0])
    shares = plan.shares()
    assert shares["heads"] == 1 - (whole["heads"] // 2 + whole["heads"]) / (2 * whole["heads"])
    assert shares["channels"] == 1 - 3 / (2 * whole["channels"])
    assert plan_of(model, removed_layers=[0]).shares() == {}
