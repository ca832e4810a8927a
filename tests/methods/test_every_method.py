"""What every method has in common: it prunes every shape of model, keeps to the request, and refuses mistakes."""

import copy
import math

import pytest
import torch

from reproducer import Plan, prune
from reproducer.errors import UserError
from reproducer.methods.registry import METHODS
from reproducer.models.architecture import parameter_count
from reproducer.pruning.allocation import TOLERANCE
from tests.families import family_model
from tests.helpers import logits, tokens

SHAPES = {
    "llama": ({"heads": 6, "groups": 2, "hidden": 36}, torch.float32, {"ratio": 0.2}),
    "phi3": ({"heads": 6, "groups": 2, "hidden": 48}, torch.bfloat16, {"ratio": 0.2, "round_to": 4}),
    "opt": ({"tied": True}, torch.float32, {"structure_ratio": 0.25, "scope": "global"}),
}
BRIEF = {
    "ddp": {"steps": 3, "batch": 4},
    "lorashear": {"warmup_steps": 1, "periods": 2, "period_steps": 2, "batch": 4},
    "moreau": {"steps": 3},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(METHODS.all()))
def test_every_method_on_every_shape(name, shape, tmp_path):
    more, dtype, cut = SHAPES[shape]
    model = family_model(shape, layers=6, channels=80, dtype=dtype, **more)
    model.model.train()
    for place, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(place % 3 != 0)
    ids, before, options = tokens(8, 8), copy.deepcopy(model.state_dict()), {**cut, **BRIEF.get(name, {})}
    state = flags_modes_and_gradients(model), torch.get_rng_state()
    plan = prune(model, name, ids, layers=[1, 2, 3, 4], **options)
    assert flags_modes_and_gradients(model) == state[0] and torch.equal(torch.get_rng_state(), state[1])
    model.eval()
    assert plan.method == name and {*plan.layers, *plan.removed_layers} <= {1, 2, 3, 4}
    assert all(key.split("layers.")[1].split(".")[0] in "1234" for key in plan.tensors)
    assert all(tensor.dtype == dtype or key.endswith("bias") for key, tensor in plan.tensors.items())
    smaller = plan.apply(model)
    assert logits(smaller, ids).isfinite().all()
    assert parameter_count(smaller) == plan.parameters_left(model) < parameter_count(model)
    if "ratio" in cut and not plan.removed_layers:
        assert abs(1 - parameter_count(smaller) / parameter_count(model) - cut["ratio"]) <= TOLERANCE
        assert all(len(kept) % cut.get("round_to", 1) == 0 for kept in plan.kept_channels.values())
    assert plan == prune(model, name, ids, layers=[1, 2, 3, 4], **options)
    plan.save(tmp_path / "plan.safetensors")
    assert Plan.load(tmp_path / "plan.safetensors") == plan
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def flags_modes_and_gradients(model):
    of_parameters = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    return of_parameters, [module.training for module in model.modules()]


def test_every_method_has_what_a_reader_needs():
    own = "reproducer."  # other tests register methods of their own
    methods = {name: method for name, method in METHODS.all().items() if method.function.__module__.startswith(own)}
    assert len({method.label for method in methods.values()}) == len(methods)
    for name, method in methods.items():
        assert method.name == name and method.label and method.source
        assert method.summary and "\n" not in method.summary and len(method.summary) < 110


MISTAKES = {
    "adapruner": [{"alpha1": 0, "alpha2": 0}, {"coarse_second": "onyl"}, {"coarse_scale": math.nan}],
    "ddp": [{"steps": 0}, {"batch": 2.5}, {"learning_rate": -1}, {"epsilon_start": "large"}, {"fold": 1}],
    "flap": [{"metric": "var"}, {"compensate": 1}],
    "gprune-llm": [{"groups": 0}, {"sensitive": math.inf}, {"weak": 1.5}],
    "lorashear": [{"rank": 1.5}, {"batch": True}, {"alpha": math.inf}, {"epsilon": 1}, {"criterion": "third"}],
    "magnitude": [{"p": 0}, {"p": "two"}],
    "moreau": [{"steps": 2.5}, {"noise": -0.1}, {"smoothing": 0}, {"step_size": "fast"}],
    "saap": [{"sigma_vector": 0}, {"sigma_element": math.nan}, {"fluctuation": math.nan}],
    "shortened-llama": [{"criterion": "magnitude"}, {"keep_first": -1}, {"keep_last": True}],
}


@pytest.mark.parametrize(("name", "parameters"), [(name, each) for name in MISTAKES for each in MISTAKES[name]])
def test_a_wrong_value_of_a_parameter_is_named(name, parameters):
    with pytest.raises(UserError, match=next(iter(parameters))):
        prune(family_model("llama"), name, tokens(2, 6), structure_ratio=0.25, **parameters)


@pytest.mark.parametrize("name", ["flap", "gprune-llm"])
def test_a_method_that_compares_samples_needs_two(name):
    with pytest.raises(UserError, match="needs 2 calibration samples or more, not 1"):
        prune(family_model("llama"), name, tokens(1, 9), structure_ratio=0.25)


@pytest.mark.parametrize("name", ["ddp", "flap", "lorashear", "saap"])
def test_a_cut_out_of_reach_is_refused_before_the_first_step(name):
    with pytest.raises(UserError, match=r"cannot be (removed|reached)"):
        prune(family_model("llama"), name, tokens(8, 8), ratio=0.9, layers=[1])


@pytest.mark.parametrize("name", ["ddp", "lorashear", "moreau", "shortened-llama"])
def test_a_model_that_is_not_finite_is_refused(name):
    model = family_model("llama", layers=6)
    model.model.layers[3].mlp.down_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"nan|finite"):
        prune(model, name, tokens(3, 8), ratio=0.1, **BRIEF.get(name, {}))
