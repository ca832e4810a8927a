"""LoRAShear: redundant structures are taken to zero while LoRA's variables learn to do without them."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from reproducer import prune
from reproducer.methods.lorashear import STAYS, Shearing, Variables
from reproducer.methods.prune import plan_for, train
from reproducer.methods.registry import METHODS, Request
from reproducer.methods.training import trained
from reproducer.models.architecture import architecture_of, unit_parameters
from reproducer.pruning.cut import Cut
from reproducer.pruning.plan import Plan
from tests.families import ZOO, Double, family_model, layers_of, zeroed
from tests.helpers import cut_by_hand, decoder_layers, logits, rand, randn, tiny, tokens
from tests.methods.learning import loss, overfitted

FAMILIES = ("llama grouped tied", "llama biased", "phi3 grouped tied", "opt")
SHORT = {"warmup_steps": 2, "periods": 2, "period_steps": 3, "batch": 4, "learning_rate": 0.01}


def request(model, ids, directory=None, layers=(0, 1, 2), ratio=0.2, **parameters):
    parameters, cut = {**SHORT, **parameters}, Cut(ratio=ratio)
    method = METHODS.get("lorashear")
    return Request(model, method, cut, parameters, ids=ids, layers=list(layers), directory=directory)


def shearing(model, ids, layers=(0, 1, 2), ratio=0.2, **more):
    """A training in front of its first step, but for variables that have learned something."""
    settings = {**method_defaults(), **SHORT, **more}
    training = Shearing(request(model, ids, layers=layers, ratio=ratio), settings)
    generator = np.random.default_rng(1)
    for name, tensor in training.state.items():
        if name[:2] == "B/":
            tensor.data.copy_(randn(*tensor.shape, seed=generator) * 0.05)
    return training


def method_defaults():
    return METHODS.get("lorashear").parameters


@pytest.mark.parametrize(("name", "criterion"), [*zip(FAMILIES, ("first", "second", "first", "second"), strict=True)])
def test_redundant_structures_are_zero_before_they_are_cut(name, criterion, tmp_path):
    model, ids = family_model(name, **ZOO[name]), tokens(8, 8)
    with Double():
        asked = request(model, ids, tmp_path, criterion=criterion)
        train(asked)
        plan = plan_for(asked)
        assert any(len(units) < plan.units[index]["channels"] for index, units in plan.kept_channels.items())
        variables, whole = Variables(asked, method_defaults(), trained(tmp_path)), copy.deepcopy(model)
        for index, path in variables.linears:
            weight = layers_of(whole)[index].get_submodule(path).weight
            assert not torch.equal(weight, variables.effective(index, path))
            weight.data = variables.effective(index, path)
        kept = {i: {"heads": plan.kept_heads[i], "channels": plan.kept_channels[i]} for i in range(3)}
        by_hand = zeroed(whole, kept)
        for (key, one), other in zip(whole.state_dict().items(), by_hand.state_dict().values(), strict=True):
            assert torch.equal(one, other) or key.endswith("bias")
        # The biases of their rows are shrunk with them: what the training ran is what the plan makes.
        smaller = plan.apply(model)
        torch.testing.assert_close(logits(smaller, ids), logits(by_hand, ids), rtol=1e-9, atol=1e-9)
        twin = copy.deepcopy(model)
        Variables(replace(asked, model=twin), method_defaults(), trained(tmp_path)).attach()
        torch.testing.assert_close(logits(smaller, ids), logits(twin, ids), rtol=1e-9, atol=1e-9)


def test_its_perplexity_is_below_that_of_cutting_the_same_at_once():
    ids = tokens(16, 24)
    model = overfitted(tiny(groups=2, layers=4, channels=48), ids, steps=100)
    more = {"warmup_steps": 10, "periods": 4, "period_steps": 10, "learning_rate": 0.01}
    plan = prune(model, "lorashear", ids, ratio=0.3, layers=range(4), **more)
    at_once = Plan(plan.units, plan.kept)
    dense, sheared, cut = (loss(one, ids) for one in (model, plan.apply(model), at_once.apply(model)))
    assert dense + 0.5 < cut  # there is something to lose
    assert sheared < (dense + cut) / 2


# Its parts.


@pytest.mark.parametrize("criterion", ["first", "second"])
def test_scores_are_of_effective_weights_and_a_parameter(criterion):
    model, ids = tiny("qwen2", groups=2, dtype=torch.float64), tokens(4, 8)
    training, unpruned = shearing(model, ids, criterion=criterion), copy.deepcopy(model)
    for index, path in training.variables.linears:
        weight = decoder_layers(unpruned)[index].get_submodule(path).weight
        weight.data = training.variables.effective(index, path)
    training.variables.attach()
    scores = training.scores()
    same = {"first": "llm-pruner-e1", "second": "llm-pruner-e2"}[criterion]
    expected = prune(unpruned, same, ids, ratio=0.2, layers=range(3)).scores
    for index in range(3):
        for kind, values in expected[index].items():
            cost = unit_parameters(
                decoder_layers(model)[index], architecture_of(model), architecture_of(model).kind(kind)
            )
            torch.testing.assert_close(scores[index][kind] * cost, values)
    torch.testing.assert_close(logits(model, ids), logits(unpruned, ids))  # the hooks are back, the weights too


def test_knowledge_distribution():
    """What each group alone costs, and that the costliest are marked."""
    model, ids = tiny(groups=2, layers=4), tokens(5, 9)
    generator = np.random.default_rng(0)
    counts = {"heads": 2, "channels": 24}
    scores = {i: {kind: rand(n, seed=generator) for kind, n in counts.items()} for i in (1, 2, 3)}
    costs = shearing(model, ids, (1, 2, 3), probe=0.3).group_costs(scores)
    assert costs.keys() == {f"{index}.{kind}" for index in (1, 2, 3) for kind in counts}
    for index, of_layer in scores.items():
        for kind, values in of_layer.items():
            kept = sorted(values.argsort()[1 if kind == "heads" else 7 :].tolist())
            smaller = cut_by_hand(model, {index: {kind: kept}})
            if kind == "heads":
                decoder_layers(smaller)[index].self_attn.num_key_value_groups = 2
            assert costs[f"{index}.{kind}"] == pytest.approx(loss(smaller, ids) * 5 * 8, rel=1e-5)
    order = sorted(costs, key=costs.get, reverse=True)
    most = 3 * sum((units - 1) * (96 if kind == "channels" else 1024 * 3) for kind, units in counts.items())
    for share, remove, expected in ((0.5, 0, order[:3]), (0.1, 0, []), (0.5, most, [])):
        training = shearing(model, ids, (1, 2, 3), unprunable=share)
        training.remove, training.group_costs = remove, lambda scores: costs
        training.mark_unprunable()
        marked = {name.partition("/")[2] for name, tensor in training.state.items() if name[:2] == "un" and tensor}
        assert marked == set(expected)


def test_the_groups_that_cost_most_are_not_cut(tmp_path):
    model, ids = tiny(groups=2, layers=4, channels=64), tokens(8, 8)
    asked = request(model, ids, tmp_path, range(4), unprunable=0.4)
    train(asked)
    plan = plan_for(asked)
    marked = [name.partition("/")[2] for name, tensor in trained(tmp_path).items() if name[:2] == "un" and tensor]
    assert len(marked) == 3
    for group in marked:
        index, kind = group.split(".")
        assert len(plan.kept[kind][int(index)]) == plan.units[int(index)][kind]


def test_the_half_space():
    model = tiny(dtype=torch.float64)
    learned = shearing(model, tokens(2, 4)).state
    learned["period/1.channels"][:4] = 0
    learned["period/1.channels"][4] = 1
    before = {name: tensor.detach().clone() for name, tensor in learned.items()}

    def shrunk(state, factor, epsilon):
        training = shearing(model, tokens(2, 4), epsilon=epsilon)
        training.state = training.variables.state = copy.deepcopy(state)
        training.shrink(0, factor, before)
        return training.state["scale/1.channels"]

    # Nothing moved: a factor f gives ⟨new, old⟩ = f·‖old‖².
    scale = shrunk(learned, 0.6, 0.5)
    assert scale[:5].tolist() == [0.6] * 4 + [1] and (scale[5:] == 1).all()
    assert (shrunk(learned, 0.4, 0.5)[:5] == torch.tensor([0, 0, 0, 0, 1.0])).all()
    assert (shrunk(learned, 0.0, 0.0)[:5] == torch.tensor([0, 0, 0, 0, 1.0])).all()
    # A trial step that turns the weights of channel 2, of which LoRA's part is all: outside at any ε.
    mlp = decoder_layers(model)[1].mlp
    mlp.gate_proj.weight.data[2] = mlp.up_proj.weight.data[2] = mlp.down_proj.weight.data[:, 2] = 0
    turned = copy.deepcopy(learned)
    turned["B/1.mlp.gate_proj"].data[2] *= -1
    turned["B/1.mlp.up_proj"].data[2] *= -1
    turned["A/1.mlp.down_proj"].data[:, 2] *= -1
    scale = shrunk(turned, 0.9, 0.0)
    assert scale[2] == 0 and (scale[[0, 1, 3]] == 0.9).all() and scale[4] == 1


def test_periods_are_equal_parts_and_the_lowest_come_first(tmp_path):
    train(request(tiny(groups=2, channels=64), tokens(8, 8), tmp_path, periods=3, unprunable=0))
    state, taken = trained(tmp_path), []
    for name, periods in state.items():
        if name.startswith("period/"):
            scores = state[name.replace("period", "score")]
            taken += [(period, score) for period, score in zip(periods.tolist(), scores.tolist(), strict=True)]
    counts = [sum(period == number for period, _ in taken) for number in range(3)]
    assert max(counts) - min(counts) <= 1 and min(counts) > 0 and any(period == STAYS for period, _ in taken)
    for number in range(2):
        assert max(s for p, s in taken if p == number) <= min(s for p, s in taken if p == number + 1)
