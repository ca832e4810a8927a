"""LoRAShear: redundant structures are taken to zero while LoRA's variables learn to do without them."""

import copy

import pytest
import torch

from reproducer import prune
from reproducer.errors import UserError
from reproducer.methods import lorashear as module
from reproducer.methods.lorashear import Variables
from reproducer.methods.prune import plan_by, train
from reproducer.methods.registry import METHODS, TrainingJob
from reproducer.methods.training import trained
from reproducer.models.architecture import architecture_of, parameter_count, unit_parameters
from reproducer.pruning.allocation import TOLERANCE
from reproducer.pruning.collect import collect
from reproducer.pruning.cut import Cut
from reproducer.pruning.plan import Plan
from reproducer.pruning.scoring import structure_scores
from reproducer.pruning.statistics import Element, Second
from tests.families import ZOO, Double, family_model, layers_of, zeroed
from tests.helpers import cut_by_hand, decoder_layers, logits, tiny, tokens
from tests.methods.learning import loss, overfitted

FAMILIES = ("llama grouped tied", "llama biased", "phi3 grouped tied", "opt")
SHORT = {"warmup_steps": 2, "periods": 2, "period_steps": 3, "batch": 4, "learning_rate": 0.01}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_runs(name, dtype):
    model, ids = family_model(name, dtype=dtype, **{**ZOO[name], "channels": 64}), tokens(8, 8)
    before = copy.deepcopy(model.state_dict())
    plan = prune(model, "lorashear", ids, ratio=0.2, layers=[0, 1, 2], **SHORT)
    smaller = plan.apply(model)
    assert abs(1 - parameter_count(smaller) / parameter_count(model) - 0.2) <= TOLERANCE
    assert parameter_count(smaller) == plan.parameters_left(model)
    assert all(tensor.dtype == dtype for tensor in plan.tensors.values())
    assert logits(smaller, ids).isfinite().all()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())


def variables_of(model, state, layers=(0, 1, 2), rank=8, alpha=16):
    return Variables(model, architecture_of(model), list(layers), rank, alpha, state)


@pytest.mark.parametrize("criterion", ["first", "second"])
@pytest.mark.parametrize("name", FAMILIES)
def test_redundant_structures_are_zero_before_they_are_cut(name, criterion, tmp_path):
    model, ids, parameters = family_model(name, **ZOO[name]), tokens(8, 8), {**SHORT, "criterion": criterion}
    method = METHODS.get("lorashear")
    cut = {"layers": [0, 1, 2], "cut": Cut(ratio=0.2), "seed": 0}
    with Double():
        train(model, method.make(parameters), ids=ids, directory=tmp_path, **cut)
        plan = plan_by(method, parameters, model, ids, trained=tmp_path, **cut)
        assert any(len(units) < plan.units[index]["channels"] for index, units in plan.kept_channels.items())
        variables, whole = variables_of(model, trained(tmp_path)), copy.deepcopy(model)
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
        variables_of(twin, trained(tmp_path)).attach()
        torch.testing.assert_close(logits(smaller, ids), logits(twin, ids), rtol=1e-9, atol=1e-9)


def test_its_perplexity_is_below_that_of_cutting_the_same_at_once():
    ids = tokens(16, 24)
    model = overfitted(tiny(groups=2, layers=4, channels=48), ids, steps=100)
    more = {"warmup_steps": 10, "periods": 4, "period_steps": 10, "learning_rate": 0.01}
    plan = prune(model, "lorashear", ids, ratio=0.3, layers=range(4), **more)
    at_once = Plan(plan.units, plan.kept_heads, plan.kept_channels)
    dense, sheared, cut = (loss(one, ids) for one in (model, plan.apply(model), at_once.apply(model)))
    assert dense + 0.5 < cut  # there is something to lose
    assert sheared < (dense + cut) / 2


# Its parts.


def job(model, ids, layers=(0, 1, 2)):
    return TrainingJob(model, architecture_of(model), ids, list(layers), Cut(ratio=0.2), 0, None)


def random_state(model, layers=(0, 1, 2)):
    """Variables that have learned something, in the state in which a training leaves them."""
    state = module._fresh(job(model, tokens(2, 4), layers), 8)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        if name[:2] == "B/":
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
    return state


@pytest.mark.parametrize("statistic", [Element(0), Second()])
def test_scores_are_of_effective_weights_and_a_parameter(statistic):
    model, ids = tiny("qwen2", groups=2, dtype=torch.float64), tokens(4, 8)
    variables = variables_of(model, random_state(model))
    whole = copy.deepcopy(model)
    for index, path in variables.linears:
        decoder_layers(whole)[index].get_submodule(path).weight.data = variables.effective(index, path)
    variables.attach()
    found = module._scores(job(model, ids), variables, statistic, ids)
    statistics = collect(whole, ids, [0, 1, 2], [statistic])
    expected = structure_scores(
        whole, architecture_of(whole), statistics, lambda vectors, _: vectors[statistic], torch.Generator()
    )
    for index in range(3):
        for kind, values in expected[index].items():
            cost = unit_parameters(decoder_layers(model)[index], architecture_of(model), kind)
            torch.testing.assert_close(found[index][kind] * cost, values)
    torch.testing.assert_close(logits(model, ids), logits(whole, ids))  # the hooks are back, the weights too


def test_knowledge_distribution():
    """What each group alone costs, and that the costliest stay whole."""
    model, ids = tiny(groups=2, layers=4), tokens(5, 9)
    generator = torch.Generator().manual_seed(0)
    counts = {"heads": 2, "channels": 24}
    scores = {i: {kind: torch.rand(n, generator=generator) for kind, n in counts.items()} for i in (1, 2, 3)}
    training = job(model, ids, (1, 2, 3))
    found = module._group_costs(
        training, variables_of(model, random_state(model, (1, 2, 3)), (1, 2, 3)), scores, ids, 0.3
    )
    assert found.keys() == {f"{index}.{kind}" for index in (1, 2, 3) for kind in counts}
    for index, of_layer in scores.items():
        for kind, values in of_layer.items():
            kept = sorted(values.argsort()[1 if kind == "heads" else 7 :].tolist())
            smaller = cut_by_hand(model, {index: {kind: kept}})
            if kind == "heads":
                decoder_layers(smaller)[index].self_attn.num_key_value_groups = 2
            assert found[f"{index}.{kind}"] == pytest.approx(loss(smaller, ids) * 5 * 8, rel=1e-5)
    order = sorted(found, key=found.get, reverse=True)
    assert module._unprunable(training, found, 0.5, 0) == order[:3]
    assert module._unprunable(training, found, 0.1, 0) == []  # six groups: less than one
    largest = sum((units - 1) * (96 if kind == "channels" else 1024 * 3) for kind, units in counts.items()) * 3
    assert module._unprunable(training, found, 0.5, largest) == []  # all of it is needed


def test_the_groups_that_cost_most_are_not_cut(monkeypatch):
    model, ids = tiny(groups=2, layers=4, channels=64), tokens(8, 8)
    spared = []
    kept = module._unprunable
    monkeypatch.setattr(module, "_unprunable", lambda *args: spared.extend(kept(*args)) or spared)
    plan = prune(model, "lorashear", ids, ratio=0.2, layers=range(4), **SHORT, unprunable=0.4)
    assert len(spared) == 3
    for group in spared:
        index, kind = group.split(".")
        assert len(plan.kept(kind, int(index))) == plan.units[int(index)][kind]


def shrunk(model, state, before, period, factor, epsilon):
    module._shrink(variables_of(model, state), period, factor, before, epsilon)
    return state["scale/1.channels"]


def test_the_half_space():
    model = tiny(dtype=torch.float64)
    state = random_state(model)
    state["period/1.channels"][:4] = 0
    state["period/1.channels"][4] = 1
    before = {name: tensor.detach().clone() for name, tensor in state.items()}
    # Nothing moved: a factor f gives ⟨new, old⟩ = f·‖old‖².
    scale = shrunk(model, copy.deepcopy(state), before, 0, 0.6, 0.5)
    assert scale[:5].tolist() == [0.6] * 4 + [1] and (scale[5:] == 1).all()
    assert (shrunk(model, copy.deepcopy(state), before, 0, 0.4, 0.5)[:5] == torch.tensor([0, 0, 0, 0, 1.0])).all()
    assert (shrunk(model, copy.deepcopy(state), before, 0, 0.0, 0.0)[:5] == torch.tensor([0, 0, 0, 0, 1.0])).all()
    # A trial step that turns the weights of channel 2, of which LoRA's part is all: outside at any ε.
    mlp = decoder_layers(model)[1].mlp
    mlp.gate_proj.weight.data[2] = mlp.up_proj.weight.data[2] = mlp.down_proj.weight.data[:, 2] = 0
    turned = copy.deepcopy(state)
    turned["B/1.mlp.gate_proj"].data[2] *= -1
    turned["B/1.mlp.up_proj"].data[2] *= -1
    turned["A/1.mlp.down_proj"].data[:, 2] *= -1
    scale = shrunk(model, turned, before, 0, 0.9, 0.0)
    assert scale[2] == 0 and (scale[[0, 1, 3]] == 0.9).all() and scale[4] == 1


def test_periods_are_equal_parts_and_the_lowest_come_first(tmp_path):
    model, ids = tiny(groups=2, layers=3, channels=64), tokens(8, 8)
    more = {**SHORT, "periods": 3, "unprunable": 0}
    cut = {"layers": [0, 1, 2], "cut": Cut(ratio=0.2), "seed": 0}
    train(model, METHODS.get("lorashear").make(more), ids=ids, directory=tmp_path, **cut)
    state = trained(tmp_path)
    taken = []
    for name, periods in state.items():
        if name.startswith("period/"):
            scores = state[name.replace("period", "score")]
            taken += [(period, score) for period, score in zip(periods.tolist(), scores.tolist(), strict=True)]
    counts = [sum(period == number for period, _ in taken) for number in range(3)]
    assert max(counts) - min(counts) <= 1 and min(counts) > 0
    for number in range(2):
        assert max(s for p, s in taken if p == number) <= min(s for p, s in taken if p == number + 1)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"warmup_steps": -1}, "warmup_steps is -1; it is a whole number from 0 on"),
        ({"periods": 0}, "periods is 0; it is a whole number from 1 on"),
        ({"rank": 1.5}, "rank is 1.5"),
        ({"batch": True}, "batch is True"),
        ({"learning_rate": 0}, "learning_rate is 0; it is a number above 0"),
        ({"alpha": float("inf")}, "alpha is inf"),
        ({"epsilon": 1}, "epsilon is 1; it is a number from 0 on and below 1"),
        ({"unprunable": "all"}, "unprunable is 'all'"),
        ({"probe": 0}, "probe is 0; it is a share above 0 and below 1"),
        ({"criterion": "third"}, "criterion is 'third'"),
    ],
)
def test_bad_parameters(more, words):
    with pytest.raises(UserError, match=words):
        prune(tiny(), "lorashear", tokens(2, 6), ratio=0.2, **more)


def test_a_loss_that_is_not_finite_names_the_step():
    model, ids = tiny(), tokens(8, 8)
    with pytest.raises(UserError, match=r"the loss is not finite at step \d+ of 8"):
        prune(model, "lorashear", ids, ratio=0.2, **{**SHORT, "learning_rate": 1e30})
