"""Open sections: kept as written, checked by their owners, with mistakes told as in the spec's own sections."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from reproducer.errors import UserError
from reproducer.spec import (
    Count,
    Listed,
    Name,
    Named,
    NonEmpty,
    Positive,
    Ratio,
    Section,
    SpecError,
    Text,
    Tokens,
    mistake,
)

BASE = "name: x\nmodels: [tiny]\nmethods: [magnitude]\n"


class Space(Section):
    alpha_max: Positive = 1.0
    factors: NonEmpty[Positive] = Field(default_factory=lambda: [0.5])


class Transfer(Section):
    model: Name | None = None
    ratio: Ratio | None = None

    @model_validator(mode="after")
    def _somewhere(self):
        if self.model is None and self.ratio is None:
            raise mistake("says nothing; name the model or the ratio")
        return self


class Search(Section):
    trials: Count = 150
    sampler: Literal["tpe", "random"] | None = None
    texts: NonEmpty[Name] | None = None
    space: Space = Field(default_factory=Space)
    transfer: Transfer | None = None

    @model_validator(mode="after")
    def _enough(self):
        if self.sampler == "tpe" and self.trials < 2:
            raise ValueError("the sampler tpe needs 2 trials")  # an owner may not know `mistake`
        return self


class Task(Named):
    metric: Text = "acc"


class Evaluate(Section):
    texts: Listed[Name] = Field(default_factory=list)
    tasks: Listed[Task] = Field(default_factory=list)
    seq_len: Tokens = 128


class Lora(Section):
    dataset: Name = "alpaca"
    rank: Annotated[int, Field(gt=0, le=1024)] = 8
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05


def parse_all(spec):
    """Every open section of a spec as its owner's model."""
    return (
        spec.parse(("search",), Search, spec.search),
        spec.parse(("evaluate",), Evaluate, spec.evaluate),
        [spec.parse(("recovery", i), Lora, one.parameters) for i, (one,) in enumerate(spec.recovery)],
        [spec.parse(("methods", i, "search"), Search, one.search_for(spec)) for i, one in enumerate(spec.methods)],
    )


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


# what follows BASE, whose lines are 1 to 3 -> the start of the only message, and what it has to say
MISTAKES = {
    "unknown key": ("search:\n  trils: 1", "x.yaml:5: search: unknown key 'trils'", "did you mean 'trials'?"),
    "a key of a section within": (
        "search: {alpha_max: 1}",
        "x.yaml:4: search: unknown key 'alpha_max'",
        "search.space",
    ),
    "a key of another section": ("search: {samples: 1}", "x.yaml:4: search: unknown key", "belongs in 'calibration'"),
    "unknown choice": ("search: {sampler: tp}", "x.yaml:4: search.sampler: should be one of", "did you mean 'tpe'?"),
    "not finite": ("search: {space: {alpha_max: .inf}}", "x.yaml:4: search.space.alpha_max: should be", "finite"),
    "of a kind's own": ("recovery:\n- name: lora\n  rnk: 9", "x.yaml:6: recovery[0]: unknown key 'rnk'", "'rank'?"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_with_its_line_and_place(load, case):
    text, start, words = MISTAKES[case]
    with pytest.raises(SpecError) as caught:
        parse_all(load(BASE + text + "\n"))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(start)
    assert words in line
    assert "pydantic" not in line and "Input" not in line and "Value error" not in line


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
