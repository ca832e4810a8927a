"""Parity with what LLM-Pruner's published code computed (tests/golden/README.md)."""

from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from reproducer import prune
from reproducer.models.architecture import layer_shape
from reproducer.models.families import LLAMA
from tests.helpers import close, decoder_layers, logits, sample_gradients

FOLDER = Path(__file__).parents[1] / "golden"
LAYERS = range(1, 5)
METRICS = {"l2": "magnitude", "param_first": "llm-pruner-e1", "param_second": "llm-pruner-e2"}
# LLM-Pruner's magnitude is the mean over a structure's four or three members, ours the sum; ranks are the same.
MEMBERS = {"l2": {"heads": 4, "channels": 3}, "param_first": {}, "param_second": {}}


@pytest.fixture(scope="module")
def golden():
    with numpy.load(FOLDER / "llm_pruner_tiny.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


@pytest.fixture(scope="module")
def model():
    model = LlamaForCausalLM(LlamaConfig.from_json_file(FOLDER / "tiny-llama.config.json"))
    model.load_state_dict(load_file(FOLDER / "tiny-llama.safetensors"), strict=False)
    return model.eval()


@pytest.fixture(scope="module", params=METRICS)
def case(request, golden, model):
    """(metric, plan) by the settings of the golden run."""
    ids = golden["s0/ids"].long()
    return request.param, prune(model, METRICS[request.param], ids, structure_ratio=0.25, layers=LAYERS)


def importance(golden, metric, layer, kind, head_dim):
    """LLM-Pruner's importance of a layer's heads or channels, as a sum over members."""
    if kind == "heads":
        rows = golden[f"s0/{metric}/imp/model.layers.{layer}.self_attn.q_proj"]
        values = rows.view(-1, head_dim).sum(1)
    else:
        values = golden[f"s0/{metric}/imp/model.layers.{layer}.mlp.gate_proj"]
    return values * MEMBERS[metric].get(kind, 1)


def test_the_dense_models_are_the_same(golden, model):
    assert close(logits(model, golden["s0/probe"].long()), golden["s0/base_logits"], 1e-4)


def test_scores(golden, model, case):
    metric, plan = case
    assert list(plan.scores) == list(LAYERS)
    for layer in LAYERS:
        head_dim = layer_shape(decoder_layers(model)[layer], LLAMA).head_dim
        for kind, ours in plan.scores[layer].items():
            expected = importance(golden, metric, layer, kind, head_dim)
            torch.testing.assert_close(ours, expected.to(ours.dtype), rtol=1e-4, atol=0)


def test_kept_structures(golden, model, case):
    metric, plan = case
    for layer in range(model.config.num_hidden_layers):
        shape = layer_shape(decoder_layers(model)[layer], LLAMA)
        for name, kept, units in (
            ("head", plan.kept_heads, shape.groups),
            ("mlp", plan.kept_channels, shape.channels),
        ):
            assert golden[f"s0/{metric}/keep/{name}{layer}"].tolist() == kept.get(layer, list(range(units)))


def test_logits_and_parameters(golden, model, case):
    metric, plan = case
    smaller = plan.apply(model)
    assert close(logits(smaller, golden["s0/probe"].long()), golden[f"s0/{metric}/logits"], 1e-4)
    left = int(golden[f"s0/{metric}/params"])
    assert sum(parameter.numel() for parameter in smaller.parameters()) == plan.parameters_left(model) == left


def test_the_textbook_gradients_of_these_tests_agree_with_llm_pruner_too(golden, model):
    """What the other tests compare with is itself held against the golden numbers."""
    gradients = sample_gradients(model, golden["s0/ids"].long(), [2])[2]
    layer = decoder_layers(model)[2]
    first = second = 0
    for name in ("gate_proj", "up_proj", "down_proj"):
        weight = getattr(layer.mlp, name).weight.detach()
        weight = weight.T if name == "down_proj" else weight
        g = gradients[f"mlp.{name}"]
        first = first + (weight * g.mean(0)).abs().sum(1)
        second = second + (weight**2 * (g**2).mean(0)).sum(1)
    for metric, ours in (("param_first", first), ("param_second", second)):
        expected = golden[f"s0/{metric}/imp/model.layers.2.mlp.gate_proj"]
        torch.testing.assert_close(ours, expected.to(ours.dtype), rtol=1e-4, atol=0)
