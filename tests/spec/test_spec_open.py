"""Open sections: kept as written, checked by their owners, with mistakes told as in the spec's own sections."""

from typing import Literal

import pytest
from pydantic import Field, model_validator

from reproducer.errors import UserError
from reproducer.spec import Count, NonEmpty, Positive, Section, SpecError

BASE = "name: x\nmodels: [tiny]\nmethods: [magnitude]\n"


class Space(Section):
    alpha_max: Positive = 1.0
    factors: NonEmpty[Positive] = Field(default_factory=lambda: [0.5])


class Search(Section):
    trials: Count = 150
    sampler: Literal["tpe", "random"] | None = None
    space: Space = Field(default_factory=Space)

    @model_validator(mode="after")
    def _enough(self):
        if self.sampler == "tpe" and self.trials < 2:
            raise ValueError("the sampler tpe needs 2 trials")  # an owner may not know `mistake`
        return self


def test_a_method_changes_the_section_at_every_depth(load):
    spec = load("""\
        name: x
        models: tiny
        methods:
        - a
        - {name: b, search: {space: {factors: 1}, transfer: {structure_ratio: 0.3}}}
        search: {trials: 7, space: {alpha_max: 2}, transfer: {ratio: 0.2, model: m}}
        """)
    plain, changed = spec.methods
    assert plain.search_for(spec) == spec.search
    assert changed.search_for(spec) == {
        "trials": 7,
        "space": {"alpha_max": 2, "factors": 1},
        "transfer": {"structure_ratio": 0.3, "model": "m"},
    }
    assert spec.search["space"] == {"alpha_max": 2}


@pytest.mark.parametrize(
    ("own", "common", "where"),
    [
        ("{trials: 0}", "{}", "x.yaml:3: methods[0].search.trials"),
        ("{sampler: tpe}", "{trials: 0}", "x.yaml:4: search.trials"),
        ("{sampler: tpe}", "{space: {alpha: 0}}", "x.yaml:4: search.space"),
        ("{space: {factors: 1}}", "{space: {alpha_max: 0}}", "x.yaml:4: search.space.alpha_max"),
        ("{trials: 1}", "{sampler: tpe}", "x.yaml:3: methods[0].search"),
        ("{}", "{sampler: tpe, trials: 1}", "x.yaml:4: search"),
    ],
)
def test_what_a_method_does_not_override_is_told_where_it_stands(load, own, common, where):
    spec = load(f"name: x\nmodels: tiny\nmethods: [{{name: a, search: {own}}}]\nsearch: {common}\n")
    with pytest.raises(SpecError) as caught:
        spec.parse(("methods", 0, "search"), Search, spec.methods[0].search_for(spec))
    assert str(caught.value).startswith(where + ": ")


def test_an_error_raised_at_a_place_is_told_with_its_line(load):
    spec = load(BASE + "evaluate:\n  tasks: [quizz]\n")
    with pytest.raises(SpecError) as caught, spec.at(("evaluate", "tasks", 0)):
        raise UserError("no such task", "did you mean 'quiz'?")
    assert str(caught.value) == "x.yaml:5: evaluate.tasks[0]: no such task; did you mean 'quiz'?"
    with pytest.raises(SpecError) as caught, spec.at(("models",)), spec.at(("evaluate",)):
        raise UserError("inner")
    assert caught.value.line == 4


@pytest.mark.parametrize(
    ("value", "place", "words"),
    [
        ("{a: [1, .nan]}", "search.a[1]", "finite"),
        ("{a: {b: -.inf}}", "search.a.b", "finite"),
        ("{a: {1: 2}}", "search.a", "the key 1 is not text"),
    ],
)
def test_what_json_cannot_hold_is_refused_before_the_owner_looks(mistakes, value, place, words):
    (line,) = mistakes(BASE + f"search: {value}\n")
    assert line.startswith(f"x.yaml:4: {place}: ")
    assert words in line
