"""Counts from the architecture alone: LLaMA-7B's against the paper, small models' against what is really there."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reproducer import Plan
from reproducer.models.architecture import architecture_of, layer_shape
from reproducer.models.catalogue import CATALOGUE
from reproducer.models.load import meta_model
from reproducer.paper.catalogue import load_item
from reproducer.pruning.allocation import allocate
from reproducer.pruning.counting import count
from reproducer.pruning.cut import Cut
from reproducer.pruning.plan import units_of
from tests.families import SIX, ZOO, family_model
from tests.helpers import rand


@pytest.fixture(scope="module")
def llama():
    """LLaMA-7B without weights."""
    return meta_model({**CATALOGUE["llama-7b"].config, "dtype": "bfloat16"})


def plan_by_noise(model, layers, **settings):
    architecture = architecture_of(model)
    shapes = {index: layer_shape(architecture.decoder_layers(model)[index], architecture) for index in layers}
    scores = {i: {k: rand(shape.counts[k], seed=i) for k in ("heads", "channels")} for i, shape in shapes.items()}
    kept = allocate(model, architecture, scores, Cut(**settings))
    return Plan(units_of(model, architecture), kept)


def test_llama_7b_under_llm_pruners_protocol(llama):
    plan = plan_by_noise(llama, range(4, 30), structure_ratio=0.25)
    dense, pruned = count(llama), count(llama, plan)
    assert (dense.parameters, pruned.parameters) == (6_738_415_616, 5_422_977_024)
    assert (dense.weight_bytes, pruned.weight_bytes) == (2 * dense.parameters, 2 * pruned.parameters)
    assert count(llama, plan, dtype=torch.float32).weight_bytes == 4 * pruned.parameters
    for mine, row in zip((dense, pruned), load_item("table9").rows, strict=True):
        paper = row.metrics
        assert mine.macs / 1e9 == pytest.approx(paper["macs_giga"], rel=0.005)
        assert mine.parameters / 1e9 == pytest.approx(paper["params_billion"], abs=0.005)
        assert mine.weight_bytes / 2**20 == pytest.approx(paper["memory_mib"], rel=0.005)


def check(model, plan, length):
    """Counts, before and after the plan, are what torch counts in the model itself."""
    counts = count(model, length=length), count(model, plan, length=length)
    for own, counted in zip((copy.deepcopy(model), plan.apply(model)), counts, strict=True):
        assert counted == count(own, length=length)
        assert counted.parameters == sum(weight.numel() for weight in own.parameters())
        assert counted.weight_bytes == sum(weight.nbytes for weight in own.parameters())
        own.set_attn_implementation("eager")  # attention as plain products, which torch counts
        with FlopCounterMode(display=False) as flops, torch.no_grad():  # two operations a multiply-accumulate
            own(torch.zeros(1, length, dtype=torch.long), use_cache=False)
        assert flops.get_total_flops() == 2 * counted.macs


@pytest.mark.parametrize("kind", SIX)
@pytest.mark.parametrize("length", [1, 11])
def test_counts_are_those_of_the_model_itself(kind, length):
    model = family_model(kind, **ZOO[kind], dtype=torch.float32)
    plan = plan_by_noise(model, [0, 1], structure_ratio=0.4)
    plan.removed_layers = [2]
    check(model, plan, length)
