import json
import pickle
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError
from queue_stages import Write, kind

from reproducer.errors import UserError
from reproducer.queue import Stage, canonical, topological
from tests.helpers import examples

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Fetch(Stage):
    kind = "fetch"
    version = 3
    name: str = ""


class Free(Stage):
    kind = "free"
    version = 2
    values: dict[str, Any] = {}  # noqa: RUF012
    model: Fetch | None = None
    other: Annotated[Stage, "whatever kind"] | None = None


def shuffled(value):
    """The same value with every mapping in the opposite order and lists as tuples."""
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(value)}
    return tuple(map(shuffled, value)) if isinstance(value, list) else value


@examples(60)
@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_key_does_not_depend_on_order_or_container(values):
    one, other = Free(values=values), Free(values=shuffled(values))
    assert one.key == other.key and one == other
    assert json.loads(canonical(values)) == one.params["values"] == other.params["values"]


def test_everything_but_the_label_is_in_the_key():
    base = kind("k")(n=1, a=Fetch())
    others = [
        kind("other")(n=1, a=Fetch()),
        kind("k", version=2)(n=1, a=Fetch()),
        kind("k")(n=2, a=Fetch()),
        kind("k")(n=1, b=Fetch()),
        kind("k")(n=1, a=Fetch(name="x")),
        kind("k")(n=1),
    ]
    assert len({stage.key for stage in [base, *others]}) == 1 + len(others)
    assert kind("k")(n=1, a=Fetch(), label="said otherwise").key == base.key


def test_numbers_of_different_type_are_different_recipes():
    assert len({Free(values={"p": value}) for value in (1, 1.0, True, "1")}) == 4

    class Ratio(Stage):
        kind = "ratio"
        ratio: float

    assert Ratio(ratio=1) == Ratio(ratio=1.0), "the annotation decides"


class Base(BaseModel):
    steps: int = 1
    remark: str = Field("", exclude=True)


class Special(Base):
    rank: int = 8

    @cached_property
    def derived(self):
        return self.rank * 2


class Open(BaseModel, extra="allow"):
    pass


class Train(Stage):
    kind = "train"
    settings: Base = Base()
    more: list[Open] = []  # noqa: RUF012


def test_models_as_parameters_count_with_all_their_fields():
    assert Train(settings=Special(rank=4)).params["settings"] == {"steps": 1, "rank": 4}
    used = Special(rank=4)
    assert used.derived == 8 and Train(settings=used) == Train(settings=Special(rank=4)), "cached properties do not"
    assert Train(settings=Special(rank=4)) != Train(settings=Special(rank=8)) != Train()
    assert Train(more=[Open(x=1)]).params["more"] == [{"x": 1}]
    assert Train(settings=Base(remark="a")) == Train(settings=Base(remark="b"))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_numbers_that_are_none_are_refused_with_their_place(number):
    with pytest.raises(UserError, match=r"stage 'my prune': params\.values\.ratio\[1\] is -?(nan|inf)"):
        Free(values={"ratio": [0.2, number]}, label="my prune")

    class Ratio(Stage):
        kind = "ratio"
        ratio: float

    with pytest.raises(ValidationError, match="finite"):
        Ratio(ratio=number)


@pytest.mark.parametrize("value", [{1, 2}, b"x", object(), {1: "x"}, np.int64(1), Fetch(), [Fetch()]])
def test_what_is_not_json_is_refused(value):
    with pytest.raises(TypeError, match=r"params\.values\.p"):
        Free(values={"p": value})


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "a b", "work", "corrupt", "failed", "locks", "verified"])
def test_a_kind_must_do_as_a_folder(name):
    with pytest.raises(ValueError, match="cannot be a kind"):
        kind(name)


def test_a_shared_input_is_named_once_however_many_ways_lead_to_it():
    stage = Write()
    for _ in range(60):
        stage = Write(a=stage, b=stage)
    assert len(repr(stage)) < 100 and len(f"{stage}") < 100
    assert len(topological([stage])) == 61 and pickle.loads(pickle.dumps(stage)) == stage


@examples(60)
@given(st.lists(st.lists(st.integers(0, 30), max_size=4), min_size=1, max_size=12), st.randoms())
def test_topological(edges, random):
    made = []
    step = kind("step")
    for index, wanted in enumerate(edges):
        inputs = {name: made[one % len(made)] for name, one in zip("abcd", wanted, strict=False)} if made else {}
        made.append(step(n=index, **inputs))
    given_order = random.sample(made, len(made))
    order = topological([*given_order, *given_order])
    assert sorted(stage.key for stage in order) == sorted(stage.key for stage in made)
    place = {stage.key: index for index, stage in enumerate(order)}
    assert all(place[one.key] < place[stage.key] for stage in made for one in stage.inputs.values())


def test_topological_takes_long_chains():
    stage = Write()
    for index in range(3000):
        stage = Write(n=index, a=stage)
    order = topological([stage])
    assert len(order) == 3001 and order[-1] == stage
