import hashlib
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reproducer.errors import UserError
from reproducer.queue import Stage, canonical, topological

FIXED = settings(derandomize=True, deadline=None, max_examples=60)  # the same examples on every machine
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shuffled(value):
    """The same value with every mapping in the opposite order and lists as tuples."""
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(value)}
    return tuple(map(shuffled, value)) if isinstance(value, list) else value


@FIXED
@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_key_does_not_depend_on_order_or_container(params):
    one, other = Stage("x", 1, params), Stage("x", 1, shuffled(params))
    assert one.key == other.key and one == other
    assert json.loads(canonical(params)) == one.params == other.params


def test_key_is_the_documented_hash():
    child = Stage("fetch", 3, {"name": "tiny"})
    stage = Stage("prune", 2, {"ratio": 0.2, "a": [1, True, None, "ä"]}, {"model": child}, label="for people")
    recipe = '{"inputs":{"model":"%s"},"kind":"prune","params":{"a":[1,true,null,"\\u00e4"],"ratio":0.2},"version":2}'
    assert stage.key == hashlib.sha256((recipe % child.key).encode()).hexdigest()[:20]


def test_key_is_the_same_under_another_hash_seed():
    code = (
        "from reproducer.queue import Stage;"
        "print(Stage('k', 1, {n: {n} and [1e-7, 1e22, 0.1] for n in {'a', 'b', 'ccc'}}, {'i': Stage('k', 1)}).key)"
    )
    keys = set()
    for seed in ("1", "2"):
        environment = dict(os.environ, PYTHONHASHSEED=seed)
        keys.add(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).stdout)
    assert len(keys) == 1 and len(keys.pop().strip()) == 20


def test_everything_but_the_label_is_in_the_key():
    base = Stage("k", 1, {"a": 1}, {"i": Stage("k", 1)})
    others = [
        Stage("other", 1, {"a": 1}, {"i": Stage("k", 1)}),
        Stage("k", 2, {"a": 1}, {"i": Stage("k", 1)}),
        Stage("k", 1, {"a": 2}, {"i": Stage("k", 1)}),
        Stage("k", 1, {"a": 1}, {"j": Stage("k", 1)}),
        Stage("k", 1, {"a": 1}, {"i": Stage("k", 2)}),
        Stage("k", 1, {"a": 1}),
    ]
    assert len({stage.key for stage in [base, *others]}) == 1 + len(others)
    assert Stage("k", 1, {"a": 1}, {"i": Stage("k", 1)}, label="said otherwise").key == base.key


def test_numbers_of_different_type_are_different_recipes():
    assert len({Stage("k", 1, {"p": value}) for value in (1, 1.0, True, "1")}) == 4


def test_a_change_changes_exactly_what_is_downstream():
    def build(ratio):
        model, data = Stage("model", 1), Stage("data", 1)
        prune = Stage("prune", 1, {"ratio": ratio}, {"model": model, "data": data})
        dense = Stage("measure", 1, {}, {"model": model})
        return {
            "model": model,
            "data": data,
            "dense": dense,
            "prune": prune,
            "measure": Stage("measure", 1, {}, {"model": model, "plan": prune}),
        }

    before, after = build(0.2), build(0.5)
    assert {name for name in before if before[name] != after[name]} == {"prune", "measure"}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_numbers_that_are_none_are_refused_with_their_place(number):
    with pytest.raises(UserError, match=r"stage 'my prune': params\.prune\.ratio\[1\] is -?(nan|inf)"):
        Stage("prune", 1, {"prune": {"ratio": [0.2, number]}}, label="my prune")


@pytest.mark.parametrize("value", [{1, 2}, b"x", object(), {1: "x"}, np.int64(1)])
def test_what_is_not_json_is_refused(value):
    with pytest.raises(TypeError, match=r"params\.p"):
        Stage("k", 1, {"p": value})


@pytest.mark.parametrize("kind", ["", "A", "a/b", "..", "a b", "work", "corrupt", "failed", "locks", "verified"])
def test_a_kind_must_do_as_a_folder(kind):
    with pytest.raises(ValueError, match="cannot be a kind"):
        Stage(kind, 1)


def test_later_changes_of_the_given_mappings_have_no_effect():
    params, inputs = {"a": [1]}, {"i": Stage("k", 1)}
    stage = Stage("k", 1, params, inputs)
    params["a"].append(2)
    inputs.clear()
    assert stage.params == {"a": [1]} and list(stage.inputs) == ["i"]
    with pytest.raises(AttributeError):
        stage.version = 2


def test_pickling_keeps_a_stage():
    stage = Stage("k", 1, {"a": 1}, {"i": Stage("k", 1)}, "label")
    copy = pickle.loads(pickle.dumps(stage))
    assert (copy, copy.label, copy.inputs, copy.params) == (stage, "label", stage.inputs, stage.params)


@FIXED
@given(st.lists(st.lists(st.integers(0, 30), max_size=4), min_size=1, max_size=12), st.randoms())
def test_topological(edges, random):
    made = []
    for index, wanted in enumerate(edges):
        inputs = {str(one): made[one % len(made)] for one in wanted} if made else {}
        made.append(Stage("k", 1, {"index": index}, inputs))
    given_order = random.sample(made, len(made))
    order = topological([*given_order, *given_order])
    assert sorted(stage.key for stage in order) == sorted(stage.key for stage in made)
    place = {stage.key: index for index, stage in enumerate(order)}
    assert all(place[one.key] < place[stage.key] for stage in made for one in stage.inputs.values())


def test_topological_takes_long_chains():
    stage = Stage("k", 1)
    for index in range(3000):
        stage = Stage("k", 1, {"index": index}, {"before": stage})
    order = topological([stage])
    assert len(order) == 3001 and order[-1] == stage
