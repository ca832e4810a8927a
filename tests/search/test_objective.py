"""The objective equals pruning a model and measuring it, at less cost."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reproducer import prune
from reproducer.evaluation.perplexity import perplexity
from reproducer.methods.registry import get
from reproducer.pruning.allocation import Allocation
from reproducer.search import objective as objective_module
from reproducer.search.objective import Objective

LAYERS = [1, 2, 3]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    pool = torch.randint(97, (12, 16), generator=generator)
    texts = {name: torch.randint(97, (windows, 20), generator=generator) for name, windows in (("a", 7), ("b", 3))}
    return pool, texts


@pytest.fixture
def objective(model, data):
    return Objective(model, *data, LAYERS, Allocation(ratio=0.2, heads="pooled"))


@pytest.mark.parametrize("method", ["magnitude", "vector", "llm-pruner-e2", "adapruner"])
def test_value_is_that_of_the_pruned_model(model, data, objective, method):
    pool, texts = data
    samples = [2, 3, 7]
    plan = objective.plan(get(method).make_rule({}), samples, method, {})
    same = prune(model, method, pool[samples], ratio=0.2, layers=LAYERS, heads="pooled")
    assert (plan.kept_heads, plan.kept_channels) == (same.kept_heads, same.kept_channels)
    smaller = same.apply(model)
    expected = {name: perplexity(smaller, windows).value for name, windows in texts.items()}
    assert objective.perplexities(plan) == pytest.approx(expected, rel=1e-5)
    assert objective.value(plan) == pytest.approx(sum(expected.values()) / 2, rel=1e-5)


def test_dense_perplexities(model, data, objective):
    expected = {name: perplexity(model, windows).value for name, windows in data[1].items()}
    assert objective.perplexities(None) == pytest.approx(expected, rel=1e-5)


def test_the_same_samples_are_differentiated_once(objective, monkeypatch):
    calls = []
    collect = objective_module.collect

    def counted(*arguments, **keywords):
        calls.append(arguments[3])
        return collect(*arguments, **keywords)

    monkeypatch.setattr(objective_module, "collect", counted)
    first = get("vector").make_rule({})
    objective.plan(first, [1, 2], "vector", {})
    objective.plan(first, [1, 2], "vector", {})
    assert len(calls) == 1
    objective.plan(get("llm-pruner-e1").make_rule({}), [1, 2], "llm-pruner-e1", {})
    assert len(calls) == 2 and not set(calls[0]) & set(calls[1])  # only what was missing
    objective.plan(first, [1, 3], "vector", {})
    assert len(calls) == 3


def test_the_model_stays_as_it_was(model, data):
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    objective = Objective(model, *data, LAYERS, Allocation(structure_ratio=0.5))
    objective.value(objective.plan(get("llm-pruner-e1").make_rule({}), [0, 1], "llm-pruner-e1", {}))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
