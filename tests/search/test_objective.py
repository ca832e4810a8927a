"""The objective equals pruning a model and measuring it, at less cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reproducer import prune
from reproducer.errors import UserError
from reproducer.evaluation.perplexity import perplexity
from reproducer.methods.registry import METHODS, Decision, Method
from reproducer.pruning.collect import collect
from reproducer.pruning.cut import Cut
from reproducer.pruning.statistics import Element, First, InputMean, InputNorm, Power, Second
from reproducer.search import objective as objective_module
from reproducer.search.objective import Objective
from reproducer.search.race import CHANCE, hopeless, race_rounds
from tests.helpers import close, examples, tiny, tokens

LAYERS = [1, 2, 3]
# The model is in float64: two ways to the same number then differ by a few thousand roundings of 1e-16, each of them
# enlarged where terms of opposite sign all but cancel.
SAME = 1e-9


@pytest.fixture(scope="module")
def model():
    return tiny(layers=5, groups=2, channels=48, vocab=97, dtype=torch.float64)


@pytest.fixture(scope="module")
def data():
    return tokens(12, 16, 97), {"a": tokens(7, 20, 97, seed=1), "b": tokens(3, 20, 97, seed=2)}


@pytest.fixture
def objective(model, data):
    return Objective(model, *data, LAYERS, Cut(ratio=0.2, heads="pooled"))


ONLY = {"alpha1": 0.4, "alpha2": 0.7, "coarse_second": 1e5, "fine_second": "only"}


def calls_of(monkeypatch):
    calls, collect = [], objective_module.collect

    def counted(model, ids, *arguments, **keywords):
        calls.append(None if ids is None else ids.tolist())
        return collect(model, ids, *arguments, **keywords)

    monkeypatch.setattr(objective_module, "collect", counted)
    return calls


@pytest.mark.parametrize("method", ["magnitude", "random", "vector", "llm-pruner-e2", "adapruner"])
def test_value_is_that_of_the_pruned_model(model, data, objective, method):
    pool, texts = data
    samples = [2, 3, 7]
    plan = objective.plan(METHODS.get(method), {}, samples, seed=5)
    same = prune(model, method, pool[samples], ratio=0.2, layers=LAYERS, heads="pooled", seed=5)
    assert plan == same
    smaller = same.apply(model)
    expected = {name: perplexity(smaller, windows).value for name, windows in texts.items()}
    assert objective.value(plan) == pytest.approx(sum(expected.values()) / 2, rel=SAME)


def method_of(decide, **options):
    return Method(lambda: Decision(decide, **options), "decision", "", "")


BIAS = {"model.layers.2.mlp.down_proj.bias": torch.linspace(-1, 1, 32, dtype=torch.float64)}
NORM = {"model.layers.1.input_layernorm.weight": torch.linspace(0.5, 1, 32, dtype=torch.float64)}
LOW = {"model.layers.0.input_layernorm.weight": NORM["model.layers.1.input_layernorm.weight"]}
LAST = {"model.norm.weight": NORM["model.layers.1.input_layernorm.weight"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"tensors": {**BIAS, **NORM}, "kept": {"channels": {2: range(20)}}},
        {"removed_layers": [1, 3], "kept": {"heads": {2: [1]}}},
        {"removed_layers": [0]},  # what lies below the layers to prune, or outside of all
        {"tensors": LOW},
        {"tensors": LAST, "kept": {"channels": {3: range(20)}}},
        {"kept": {"channels": {0: range(20)}}},
    ],
    ids=["tensors", "layers", "a layer below", "a tensor below", "the last norm", "a cut below"],
)
def test_a_decision_is_measured_whatever_it_changes(model, data, objective, changes):
    plan = objective.plan(method_of(lambda request: request.keep(**changes)), {}, [1, 2])
    smaller = plan.apply(model)
    expected = sum(perplexity(smaller, windows).value for windows in data[1].values()) / 2
    assert objective.value(plan) == pytest.approx(expected, rel=SAME)
    assert expected != pytest.approx(objective.value(None), rel=SAME)
    assert model.model.layers[2].mlp.down_proj.bias is None


def test_a_decision_sees_the_samples_and_its_statistics(model, data, objective):
    seen = []
    needs = (InputMean(), InputNorm(), Power(1))
    objective.plan(
        method_of(lambda request: seen.append(request) or request.keep(), needs=needs), {}, [4, 2, 4], seed=8
    )
    (request,) = seen
    assert torch.equal(request.ids, data[0][[4, 2, 4]]) and (request.layers, request.seed) == (LAYERS, 8)
    same(request.statistics, collect(model, data[0][[4, 2, 4]], LAYERS, needs), SAME)


def test_a_method_that_trains_is_refused(objective):
    with pytest.raises(UserError, match="trains"):
        objective.plan(method_of(lambda request: request.keep(), train=lambda job: None), {}, [1, 2])


def same(found, expected, tolerance):
    for index, members in expected.items():
        for name, statistics in members.items():
            for statistic, values in statistics.items():
                assert close(found[index][name][statistic], values, tolerance), (index, name, statistic)


def test_statistics_of_a_set_are_formed_from_those_of_its_passages(model, data, monkeypatch):
    objective = Objective(model, *data, LAYERS, Cut(ratio=0.2, heads="pooled"))
    calls, needs = calls_of(monkeypatch), METHODS.get("adapruner").make(ONLY).needs
    assert set(needs) == {First(), Second()}
    for samples, new in (([4, 1, 7], 3), ([7, 2, 4], 1), ([1, 2, 4, 7], 0), ([5, 5, 1], 1)):
        before = len(calls)
        found = objective.statistics(samples, needs)
        assert len(calls) - before == new
        same(found, collect(model, data[0][samples], LAYERS, needs), SAME)
    assert sum(map(len, calls)) == 5
    assert objective.sample_tokens == 5 * data[0].shape[1]


def test_passages_used_last_stay_within_the_limit(model, data, monkeypatch):
    needs, calls = {Second()}, calls_of(monkeypatch)
    size = sum(
        values.nbytes for members in collect(model, data[0][:1], LAYERS, needs).values()
        for found in members.values() for values in found.values()
    )  # fmt: skip
    objective = Objective(model, *data, LAYERS, Cut(ratio=0.2, heads="pooled"), passage_bytes=2 * size)
    for samples in ([0], [1], [0, 1], [0, 0], [2], [0, 2]):  # 1 was used longest ago when 2 came
        objective.statistics(samples, needs)
    assert len(calls) == 3
    objective.statistics([1, 2, 3], needs)
    assert len(calls) == 5
    assert objective._passages.nbytes <= 2 * size


def test_what_is_prepared_is_collected_once_and_what_mixes_orders_takes_one_pass(model, data, monkeypatch):
    fresh = Objective(model, *data, LAYERS, Cut(ratio=0.2, heads="pooled"))
    objective, calls, told = Objective(model, *data, LAYERS, Cut(ratio=0.2, heads="pooled")), [], []
    objective.expect({First(), Second()})
    objective.prepare([1, 2, 5], lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3)] and objective.sample_tokens == 3 * data[0].shape[1]
    calls = calls_of(monkeypatch)
    found = objective.statistics([1, 5], {First(), Second()})
    assert not calls
    mixed = objective.statistics([1, 5], {Second(), Element(1e5)})
    assert len(calls) == 1 and objective.sample_tokens == 5 * data[0].shape[1]
    apart = fresh.statistics([1, 5], {First(), Second()}), fresh.statistics([1, 5], {Element(1e5)})
    for index, modules in found.items():
        for name, values in modules.items():
            for statistic in (First(), Second()):
                assert torch.equal(values[statistic], apart[0][index][name][statistic])
            assert torch.equal(mixed[index][name][Element(1e5)], apart[1][index][name][Element(1e5)])


# A race.


@pytest.fixture(scope="module")
def longer(model):
    texts = {"a": tokens(21, 20, 97, seed=3), "b": tokens(8, 20, 97, seed=4)}
    return lambda: Objective(model, tokens(12, 16, 97), texts, LAYERS, Cut(ratio=0.2, heads="pooled"))


def plan_of(objective, method, samples=(2, 3, 7)):
    return objective.plan(METHODS.get(method), {}, samples)


def test_a_hopeless_plan_is_stopped_at_the_first_windows_that_say_so(longer):
    objective = longer()
    plan = plan_of(objective, "llm-pruner-e2")
    whole, total = objective.measure(plan), objective.text_tokens
    assert total == 29 * 20
    again = objective.measure(plan, whole.losses)
    assert (again.stopped, again.value, again.losses) == (False, whole.value, whole.losses)  # to the bit
    assert objective.text_tokens == 2 * total
    assert objective.measure(plan, [loss - 0.5 for loss in whole.losses]).stopped
    assert objective.text_tokens == 2 * total + (4 + 4) * 20


def test_the_value_of_a_stopped_plan_is_that_of_its_windows(longer):
    objective = longer()
    plan = plan_of(objective, "magnitude")
    whole = objective.measure(plan)
    part = objective.measure(plan, [loss - 1 for loss in whole.losses])
    losses = torch.tensor(whole.losses)
    assert part.stopped and part.losses == whole.losses[:8]
    assert whole.estimate == whole.value
    # The best is lower by 1 everywhere, so on the windows that are left out as well.
    assert part.estimate == pytest.approx(whole.value, rel=1e-6)
    assert part.value == pytest.approx(float((losses[:4].mean().exp() + losses[4:8].mean().exp()) / 2), rel=1e-6)


@examples(30)
@given(sizes=st.lists(st.integers(1, 140), min_size=1, max_size=3))
def test_a_round_doubles_what_is_measured_at_the_most(sizes):
    rounds = race_rounds(sizes)
    assert sorted(index for windows in rounds for index in windows) == list(range(sum(sizes)))
    if min(sizes) < 8:
        assert len(rounds) == 1
        return
    of_text = [text for text, size in enumerate(sizes) for _ in range(size)]
    counts = [0] * len(sizes)
    for number, windows in enumerate(rounds):
        before = list(counts)
        for index in windows:
            counts[of_text[index]] += 1
        for size, count, earlier in zip(sizes, counts, before, strict=True):
            assert count >= min(size, max(4, size * 2**number / 8))
            assert count <= max(4, -(-size // 8), 2 * earlier)
    assert counts == sizes


def test_one_in_five_candidates_as_good_is_given_up_and_a_bad_one_always():
    random, texts = np.random.default_rng(0), torch.arange(2).repeat_interleave(16)
    level = torch.from_numpy(4 + random.normal(size=(800, 32)))  # windows differ far more than models do
    noise = torch.from_numpy(0.1 * random.normal(size=(800, 32)))
    wrong = [hopeless(best + change, best, texts) for best, change in zip(level, noise, strict=True)]
    # of 800, 160 on average, with a standard deviation of 11.3: five of these
    assert abs(sum(wrong) - 800 * CHANCE) < 57
    assert all(hopeless(best + change + 0.2, best, texts) for best, change in zip(level, noise, strict=True))


def test_losses_that_are_not_finite_are_not_given_up():
    best, texts = torch.full((8,), 3.0), torch.zeros(8, dtype=torch.long)
    assert not hopeless(torch.full((8,), torch.nan), best, texts)
    assert not hopeless(best.clone(), best, texts)
