"""DDP: gates learned on text, the weights frozen."""

import copy

import pytest
import torch
from torch.func import functional_call

from reproducer import prune
from reproducer.methods.ddp import learn_gates
from reproducer.methods.registry import METHODS, Request
from reproducer.methods.training import trained
from reproducer.models.architecture import architecture_of, layer_shape, parameter_count, unit_parameters
from reproducer.pruning.cut import Cut
from tests.families import ZOO, Double, family_model, layers_of
from tests.helpers import logits, tokens
from tests.methods.inputs import ends

FAMILIES = ("llama grouped tied", "phi3 grouped tied", "opt")
SETTINGS = {
    "steps": 12,
    "batch": 4,
    "learning_rate": 0.05,
    "epsilon_start": 0.1,
    "epsilon_end": 0.02,
    "multiplier_rate": 1.0,
    "fold": True,
}


def request(model, ids=None, directory=None):
    return Request(model, METHODS.get("ddp"), Cut(ratio=0.2), ids=ids, layers=[0, 1, 2], directory=directory)


def by_hand(model, ids, order, settings, remove):
    """The same gates with them folded into the weights at every step, and a plain loop."""
    names, costs = {}, {}
    architecture = architecture_of(model)
    for index, layer in enumerate(layers_of(model)):
        shape = layer_shape(layer, architecture)
        for unit, path in ends(model).items():
            parameter = next(n for n, m in model.named_modules() if m is layer.get_submodule(path)) + ".weight"
            names[f"{index}.{unit}"] = parameter
            costs[f"{index}.{unit}"] = unit_parameters(layer, architecture, architecture.kind(unit)), shape.counts[unit]
    gates = {name: torch.ones(units, dtype=torch.float64, requires_grad=True) for name, (_, units) in costs.items()}
    total = sum(cost * units for cost, units in costs.values())
    weights = dict(model.named_parameters())
    optimizer = torch.optim.Adam(gates.values(), lr=settings["learning_rate"])
    multiplier = 0.0
    for step, places in enumerate(order):
        ratio = settings["epsilon_end"] / settings["epsilon_start"]
        epsilon = settings["epsilon_start"] * ratio ** (step / (settings["steps"] - 1))
        folded = {}
        for name, gate in gates.items():
            weight = weights[names[name]].detach()
            folded[names[name]] = weight * gate.repeat_interleave(weight.shape[1] // len(gate))
        sample = ids[places]
        scores = functional_call(model, folded, (sample,), {"use_cache": False}).logits
        loss = torch.nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), sample[:, 1:].flatten())
        share = (
            sum(costs[name][0] * ((1 + epsilon) * g**2 / (g**2 + epsilon)).sum() for name, g in gates.items()) / total
        )
        optimizer.zero_grad()
        (loss + multiplier * share).backward()
        optimizer.step()
        if not settings["fold"]:
            for gate in gates.values():
                gate.data = gate.data.clamp(0, 1)
        if remove:
            multiplier = max(0.0, multiplier + settings["multiplier_rate"] * (share.item() - (1 - remove / total)))
    return gates, multiplier


@pytest.mark.parametrize(("target", "fold"), [(0, True), (0.3, True), (0.3, False)])
@pytest.mark.parametrize("name", FAMILIES)
def test_gates_are_those_of_a_plain_loop(name, target, fold, tmp_path):
    model = family_model(name, **ZOO[name])
    ids, settings = tokens(8, 8), {**SETTINGS, "steps": 6, "fold": fold}
    remove = round(target * parameter_count(model))
    seen = []
    with Double():
        hook = (
            architecture_of(model)
            .decoder_of(model)
            .register_forward_pre_hook(
                lambda _, arguments, keywords: seen.append(keywords["input_ids"]), with_kwargs=True
            )
        )
        learn_gates(request(model, ids, tmp_path), settings, remove)
        hook.remove()
        for module in model.modules():
            module._forward_pre_hooks.clear()
        order = [[next(i for i in range(8) if torch.equal(ids[i], row)) for row in batch] for batch in seen]
        gates, multiplier = by_hand(model, ids, order, settings, remove)
    found = trained(tmp_path)
    assert sorted(order[0] + order[1]) == list(range(8))  # two steps of four see each of the eight once
    assert found.pop("multiplier").item() == pytest.approx(multiplier, rel=1e-6)
    assert found.keys() == gates.keys() and (multiplier > 0) == (target > 0)
    for key, gate in gates.items():
        torch.testing.assert_close(found[key], gate.detach(), rtol=0, atol=1e-5)
    largest = max(gate.max().item() for gate in found.values())
    assert largest > 1 if fold else largest == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_folding_equals_running_with_the_gates(name):
    model, ids = family_model(name, **ZOO[name]), tokens(8, 8)
    with Double():
        plan = prune(model, "ddp", ids, ratio=0.2, layers=[0, 1, 2], steps=6, fold=True)
        folded = logits(plan.apply(model), ids)
        gates = gates_of(model, ids)
        twin = copy.deepcopy(model)
        for index, layer in enumerate(layers_of(twin)):
            for kind, path in ends(model).items():
                gate = torch.zeros_like(gates[index][kind])
                gate[plan.kept[kind][index]] = gates[index][kind][plan.kept[kind][index]]
                layer.get_submodule(path).register_forward_pre_hook(
                    lambda _, inputs, gate=gate: inputs[0] * gate.repeat_interleave(inputs[0].shape[-1] // len(gate))
                )
        torch.testing.assert_close(folded, logits(twin, ids), rtol=1e-10, atol=1e-10)
    assert any((gate[plan.kept[kind][index]] != 1).any() for index in gates for kind, gate in gates[index].items())


def gates_of(model, ids):
    """The gates themselves; a plan's scores are their sizes, and none of these few steps takes a gate below 0."""
    return prune(model, "ddp", ids, ratio=0.2, layers=[0, 1, 2], steps=6, fold=True).scores
