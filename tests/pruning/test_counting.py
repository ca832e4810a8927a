"""Counts from the architecture alone: LLaMA-7B's against the paper, small models' against what is really there."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from reproducer import prune
from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of, layer_shape
from reproducer.models.catalogue import CATALOGUE
from reproducer.pruning.allocation import Allocation
from reproducer.pruning.counting import count
from reproducer.pruning.scoring import make_plan
from reproducer.reporting.compare import load_item
from tests.helpers import tiny


@pytest.fixture(scope="module")
def llama():
    """LLaMA-7B without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(LlamaConfig(**CATALOGUE["llama-7b"].config), dtype=torch.bfloat16)


def plan_by_noise(model, layers, **settings):
    architecture = architecture_of(model)
    shapes = {index: layer_shape(architecture.decoder_layers(model)[index]) for index in layers}
    scores = {i: {k: torch.rand(shape.units(k)) for k in ("heads", "channels")} for i, shape in shapes.items()}
    return make_plan(model, architecture, scores, Allocation(**settings), "noise", {})


def test_llama_7b_under_llm_pruners_protocol(llama):
    plan = plan_by_noise(llama, range(4, 30), structure_ratio=0.25)
    dense, pruned = count(llama), count(llama, plan)
    assert (dense.parameters, pruned.parameters) == (6_738_415_616, 5_422_977_024)
    assert (dense.weight_bytes, pruned.weight_bytes) == (2 * dense.parameters, 2 * pruned.parameters)
    assert count(llama, plan, dtype=torch.float32).weight_bytes == 4 * pruned.parameters
    for mine, row in zip((dense, pruned), load_item("table9")["rows"], strict=True):
        paper = row["metrics"]
        assert mine.macs / 1e9 == pytest.approx(paper["macs_giga"], rel=0.005)
        assert mine.parameters / 1e9 == pytest.approx(paper["params_billion"], abs=0.005)
        assert mine.weight_bytes / 2**20 == pytest.approx(paper["memory_mib"], rel=0.005)


def test_rounded_widths_keep_the_ratio_of_llama_7b(llama):
    plan = plan_by_noise(llama, range(4, 30), ratio=0.20, round_to=64)
    assert all(len(kept) % 64 == 0 for kept in plan.kept_channels.values())
    assert 1 - count(llama, plan).parameters / count(llama).parameters == pytest.approx(0.20, abs=0.005)


@pytest.mark.parametrize("length", [1, 16])
def test_counts_are_those_of_the_model_itself(zoo_model, length):
    plan = prune(zoo_model, "random", structure_ratio=0.3, layers=[1])
    counts = count(zoo_model, length=length), count(zoo_model, plan, length=length)
    for model, counted in zip((copy.deepcopy(zoo_model), plan.apply(zoo_model)), counts, strict=True):
        assert counted == count(model, length=length)
        assert counted.parameters == sum(weight.numel() for weight in model.parameters())
        assert counted.weight_bytes == sum(weight.nbytes for weight in model.parameters())
        model.set_attn_implementation("eager")  # attention as plain products, which torch counts
        with FlopCounterMode(display=False) as flops, torch.no_grad():  # two operations a multiply-accumulate
            model(torch.zeros(1, length, dtype=torch.long), use_cache=False)
        assert flops.get_total_flops() == 2 * counted.macs


def test_layers_of_uneven_widths(uneven_model):
    assert count(uneven_model).parameters == sum(weight.numel() for weight in uneven_model.parameters())


def test_a_plan_for_another_model_is_refused(llama):
    plan = prune(tiny(), "random", structure_ratio=0.3)
    with pytest.raises(UserError, match="made for another model"):
        count(llama, plan)
