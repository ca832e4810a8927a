"""What a spec's text means once it is loaded."""

import json
import pickle
import subprocess
import sys

import pytest
from pydantic import ValidationError

from reproducer.spec import CalibrationSpec, ModelSpec, PruneSpec, RecoverySpec, Spec, SpecError, load_spec

BASE = "name: x\nmodels: [tiny]\nmethods: [magnitude]\n"

TABLE1 = """\
name: table1
title: Structured pruning of LLaMA-7B at a 20% pruning ratio
reproduces: {table: 1}                       # the paper's item, if any
models: [llama-7b]
methods: [magnitude, vector, llm-pruner-e1, {name: adapruner, label: "w/o D", search: {data: random}}]
prune: {structure_ratio: 0.25, layers: [4, 30], scope: local}   # LLM-Pruner's 20%; or ratio: 0.20 of all parameters
calibration: {dataset: bookcorpus, samples: 10, length: 128}
search: {trials: 150, sampler: tpe}
recovery: [none, lora]
evaluate: {perplexity: [wikitext2, ptb], tasks: [boolq, piqa], limit: null}
seeds: [0]
"""


def test_the_documented_example_loads_as_it_stands(load):
    spec = load(TABLE1)
    assert spec.name == "table1"
    assert spec.title == "Structured pruning of LLaMA-7B at a 20% pruning ratio"
    assert spec.reproduces == {"table": 1}
    assert [model.name for model in spec.models] == ["llama-7b"]
    assert [method.name for method in spec.methods] == ["magnitude", "vector", "llm-pruner-e1", "adapruner"]
    assert spec.methods[3].label == "w/o D"
    assert spec.prune.structure_ratio == [0.25]
    assert spec.prune.ratio is None
    assert spec.prune.layers == (4, 30)
    assert spec.calibration == CalibrationSpec(dataset="bookcorpus", samples=10, length=128)
    assert spec.search == {"trials": 150, "sampler": "tpe"}
    assert [recovery.name for recovery in spec.recovery] == ["none", "lora"]
    assert spec.evaluate == {"perplexity": ["wikitext2", "ptb"], "tasks": ["boolq", "piqa"], "limit": None}
    assert spec.seeds == [0]


def test_only_name_models_and_methods_are_required(load):
    spec = load(BASE)
    assert spec.prune == PruneSpec(ratio=[0.20])
    assert spec.recovery == [RecoverySpec(name="none")]
    assert spec == Spec(name="x", models=["tiny"], methods=["magnitude"])


def test_one_alone_needs_no_list(load):
    lists = """\
        name: x
        models: [tiny]
        methods: [{name: adapruner}]
        prune: {ratio: [0.3]}
        recovery: [{name: lora, rank: 4}]
        seeds: [3]
        """
    alone = lists.replace("[", "").replace("]", "")
    assert load(alone) == load(lists)
    assert load(lists).models == [ModelSpec(name="tiny")]


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "+1e-4", "1_0e-5"])
def test_numbers_in_scientific_notation_are_numbers(load, text):
    """YAML 1.1 reads 1e-4 as text."""
    assert load(BASE + f"search: {{rate: {text}}}").search == {"rate": 1e-4}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", 1000),
        ("true", True),
        ("yes", "yes"),
        ("off", "off"),
        ("~", None),
        ("1:30", "1:30"),
        ("-.5", -0.5),
        ("=", "="),
        ("2024-01-31", "2024-01-31"),
        ("'7'", "7"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(load, text, value):
    loaded = load(BASE + f"search: {{a: {text}}}").search["a"]
    assert (loaded, type(loaded)) == (value, type(value))


def test_a_date_or_a_quoted_number_is_text(load):
    assert load(BASE + "title: 2024-01-31").title == "2024-01-31"
    assert load(BASE + "title: '7'").title == "7"


def test_anchors_and_merge_keys_as_in_yaml(load):
    text = """\
        name: x
        models: tiny
        methods:
          - {name: adapruner, label: a, search: &search {data: random, trials: 7}}
          - {name: adapruner, label: b, search: {<<: *search, trials: 9}}
        """
    assert load(text).methods[1].search == {"data": "random", "trials": 9}


def test_of_several_merged_mappings_the_first_wins_and_an_anchor_may_be_used_again(load, recwarn):
    text = """\
        name: x
        models: tiny
        methods: magnitude
        search: {a: &m {k: 1}, b: &n {k: 2, l: 2}, c: {<<: [*m, *n]}, d: &m {k: 3}, e: *m}
        """
    search = load(text).search
    assert (search["c"], search["e"]) == ({"k": 1, "l": 2}, {"k": 3})
    assert not recwarn.list


def test_the_dump_is_a_spec_again_and_the_same_for_the_same_input(load):
    first, second = load(TABLE1), load(TABLE1)
    dump = first.model_dump(mode="json")
    assert json.dumps(dump) == json.dumps(second.model_dump(mode="json"))
    assert Spec.model_validate(json.loads(json.dumps(dump))) == first


def test_origins_take_no_part_in_equality_or_in_the_dump(load, write):
    moved = load_spec(write("# a comment\n\n" + TABLE1, "other.yaml"))
    spec = load(TABLE1)
    assert moved == spec
    assert moved.where(("seeds",)) != spec.where(("seeds",))
    assert moved != load(TABLE1.replace("seeds: [0]", "seeds: [1]"))
    assert not [key for key in spec.model_dump() if key.startswith("_")]


def test_frozen(load):
    spec = load(BASE)
    with pytest.raises(ValidationError):
        spec.name = "y"
    with pytest.raises(ValidationError):
        spec.prune.scope = "global"


def test_importing_the_room_is_light():
    # what the package itself loads, to register its exported models, comes first and is no part of the room
    code = (
        "import sys, reproducer; of_all = set(sys.modules); import reproducer.spec; print(*of_all, '|', *sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    of_all, modules = (part.split() for part in run.stdout.split("|"))
    assert not {"torch", "transformers", "numpy", "datasets", "yaml"} & set(modules)
    modules = set(modules) - set(of_all)
    own = {name for name in modules if name.startswith("reproducer.") and not name.startswith("reproducer.spec")}
    assert own == {"reproducer.errors"}


class TestWhere:
    TEXT = """\
        name: x
        models: tiny
        methods:
          - magnitude
          -
            name: adapruner
            search:
              trials: 9
        seeds: [
          0,
          1]
        """

    @pytest.mark.parametrize(
        ("loc", "line"),
        [
            ((), 1),
            (("name",), 1),
            (("models",), 2),
            (("models", 0), 2),
            (("models", 0, "name"), 2),
            (("methods", 0), 4),
            (("methods", 0, "name"), 4),
            (("methods", 1), 6),
            (("methods", 1, "name"), 6),
            (("methods", 1, "search", "trials"), 8),
            (("seeds", 0), 10),
            (("seeds", 1), 11),
            # not written: what encloses it
            (("methods", 1, "search", "sampler"), 7),
            (("methods", 1, "label"), 6),
            (("calibration", "samples"), 1),
            (("evaluate", "perplexity", 1), 1),
        ],
    )
    def test_line_of_every_value(self, load, loc, line):
        assert load(self.TEXT).where(loc) == f"x.yaml:{line}"

    def test_a_spec_built_in_python_names_itself(self):
        spec = Spec(name="mine", models=["tiny"], methods=["magnitude"])
        assert spec.where(("models", 0)) == "spec 'mine'"
        assert str(spec.error(("models", 0), "no")) == "spec 'mine': models[0]: no"
        assert spec.path is None
        assert spec.profile == ()

    def test_path(self, load):
        assert load(self.TEXT).path == "x.yaml"


class TestError:
    """How other rooms name a mistake that only they can see."""

    def test_the_nearest_choice_is_proposed(self, load):
        error = load(BASE.replace("magnitude", "vectr")).error(
            ("methods", 0, "name"), "unknown method 'vectr'", ["vector", "random"]
        )
        assert isinstance(error, SpecError)
        assert str(error) == "x.yaml:3: methods[0]: unknown method 'vectr'; did you mean 'vector'?"
        assert (error.file, error.line) == ("x.yaml", 3)

    def test_the_wrong_name_may_be_a_key(self, load):
        spec = load("name: x\nmodels: tiny\nmethods:\n- name: magnitude\n  parameters:\n    pp: 1\n")
        error = spec.error(("methods", 0, "parameters", "pp"), "unknown parameter 'pp'", ["p", "steps"], name="pp")
        assert str(error) == "x.yaml:6: methods[0].parameters.pp: unknown parameter 'pp'; did you mean 'p'?"

    def test_without_choices_the_message_stands_alone(self, load):
        assert str(load(BASE).error(("seeds",), "too many")) == "x.yaml:1: seeds: too many"

    def test_it_can_cross_processes(self, load):
        error = load(BASE).error(("name",), "taken")
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.file, copy.line) == (str(error), error.file, error.line)


class TestOverrides:
    """A method's own `prune` and `calibration`."""

    def test_merged_over_the_spec_and_validated(self, load):
        spec = load("""\
            name: x
            models: tiny
            methods:
            - adapruner
            - name: adapruner
              label: b
              calibration: {samples: 20}
              prune: {ratio: 0.3}
            prune: {ratio: 0.4, layers: [1, 3]}
            calibration: {dataset: ptb, pool: 30}
            """)
        plain, changed = spec.methods
        assert plain.prune_for(spec, spec.models[0]) == spec.prune
        assert plain.calibration_for(spec) == spec.calibration
        assert changed.prune_for(spec, spec.models[0]) == PruneSpec(ratio=[0.3], layers=(1, 3))
        assert changed.calibration_for(spec) == CalibrationSpec(dataset="ptb", pool=30, samples=20)

    @pytest.mark.parametrize(("own", "other"), [("ratio", "structure_ratio"), ("structure_ratio", "ratio")])
    def test_one_kind_of_ratio_takes_the_place_of_the_other(self, load, own, other):
        spec = load(f"name: x\nmodels: tiny\nmethods: {{name: a, prune: {{{own}: 0.5}}}}\nprune: {{{other}: [0.25]}}")
        pruned = spec.methods[0].prune_for(spec, spec.models[0])
        assert getattr(pruned, own) == [0.5]
        assert getattr(pruned, other) is None

    def test_a_small_pool_is_measured_against_the_samples_it_meets(self, load):
        spec = load("name: x\nmodels: tiny\nmethods: {name: a, calibration: {pool: 5}}\ncalibration: {samples: 5}")
        assert spec.methods[0].calibration_for(spec).pool == 5
