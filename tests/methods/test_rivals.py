"""Every rival of the paper on every shape of model: the plan is applied, and the smaller model runs."""

import copy

import pytest
import torch

from reproducer import Plan, prune
from reproducer.methods.registry import METHODS
from reproducer.models.architecture import parameter_count
from reproducer.pruning.allocation import TOLERANCE
from tests.families import family_model
from tests.helpers import logits, tokens

NAMES = ("wanda", "flap", "saap", "moreau", "gprune-llm")
SHAPES = {
    "llama grouped": {"heads": 6, "groups": 2, "hidden": 36},
    "phi3 grouped": {"heads": 6, "groups": 2, "hidden": 48},
    "opt": {"heads": 4, "tied": True},
}
CUTS = ({"ratio": 0.2}, {"structure_ratio": 0.25}, {"ratio": 0.2, "round_to": 4, "scope": "global"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_on_every_shape_of_model(name, kind, dtype, tmp_path):
    model = family_model(kind, layers=6, channels=80, dtype=dtype, **SHAPES[kind])
    ids, before = tokens(4, 8), copy.deepcopy(model.state_dict())
    for cut in CUTS:
        plan = prune(model, name, ids, layers=range(6), **cut)
        smaller = plan.apply(model)
        assert logits(smaller, ids).isfinite().all()
        assert parameter_count(smaller) == plan.parameters_left(model) < parameter_count(model)
        if "ratio" in cut:
            removed = 1 - parameter_count(smaller) / parameter_count(model)
            assert abs(removed - cut["ratio"]) <= TOLERANCE
        if "round_to" in cut:
            assert all(len(kept) % cut["round_to"] == 0 for kept in plan.kept_channels.values())
        assert plan.scores.keys() == set(range(6))
        assert plan == prune(model, name, ids, layers=range(6), **cut)
        plan.save(tmp_path / "plan.safetensors")
        assert Plan.load(tmp_path / "plan.safetensors") == plan
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_layers_that_are_not_asked_for_stay(name):
    model = family_model("llama", layers=6, channels=80, dtype=torch.float32)
    plan = prune(model, name, tokens(4, 8), layers=[1, 3], structure_ratio=0.25)
    assert set(plan.layers) == {1, 3}
    assert all(key.split(".")[2] in "13" for key in plan.tensors)


@pytest.mark.parametrize("name", NAMES)
def test_registered_with_what_a_reader_needs(name):
    method = METHODS.get(name)
    assert method.label and method.source.startswith("https://arxiv.org/abs/") and method.summary
