"""A second searched method, in a module of the user's own, has the space that it brings."""

from __future__ import annotations

import pytest
from search_objective import BASE, DRAW

from reproducer import prune
from reproducer.methods.registry import METHODS
from reproducer.pruning.cut import Cut
from reproducer.pruning.plan import Plan
from reproducer.search.objective import Objective
from reproducer.search.settings import SearchSettings
from reproducer.search.study import search
from tests.helpers import tiny, tokens


@pytest.fixture(scope="module")
def method():
    return METHODS.get("tests.extension.my_search:my_mixture")


@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_it_is_searched_in_its_own_space(tmp_path, method, order):
    model, pool, texts = tiny(layers=3, groups=2), tokens(20, 10, seed=3), {"a": tokens(9, 12, seed=1)}
    objective = Objective(model, pool, texts, [1, 2], Cut(ratio=0.2, heads="pooled"))
    settings = SearchSettings(**{**BASE, "trials": 12, "order": order})
    record = search(objective, method, method.space(exponents=[1.0, 2.0]), settings, DRAW, tmp_path)
    assert record.space == {"p": [1.0, 2.0], "mixing": {"low": 0.0, "high": 1.0}}
    searched = {name for trial in record.trials for name in trial.params if not name.startswith("sample_")}
    assert searched == {"p", "mixing"} and len(record.trials) == 12
    inside = ["magnitude", "llm-pruner-e1"] if order == "joint" else []  # the samples are searched at other parameters
    assert [trial.baseline for trial in record.trials if trial.baseline] == inside
    values = {one.method: one.value for one in record.baselines}
    plans = {name: prune(model, name, pool[list(DRAW)], ratio=0.2, layers=[1, 2], heads="pooled") for name in values}
    assert values == {name: objective.value(plan) for name, plan in plans.items()}
    best = record.best
    assert best.value == min(value for value in [*values.values(), *(t.value for t in record.trials)] if value)
    assert objective.value(Plan.load(tmp_path / "plan.safetensors")) == best.value
    samples = pool[[sample.index for sample in best.samples]]
    again = prune(model, best.method, samples, ratio=0.2, layers=[1, 2], heads="pooled", **best.params)
    assert objective.value(again) == best.value
