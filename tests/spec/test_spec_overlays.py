"""Profiles and `--set`: what wins, what is mapped, and where a value says it comes from."""

import pytest

from reproducer.spec import load_spec

BASE = "name: x\nmodels: [tiny]\nmethods: [magnitude]\n"

SPEC = """\
name: table1
models: [llama-7b, {name: vicuna-7b, label: Vicuna}]
methods:
- vector
- {name: adapruner, prune: {structure_ratio: 0.25}, calibration: {dataset: bookcorpus}, search: {texts: ptb}}
prune: {structure_ratio: [0.25, 0.5], layers: [4, 30]}
search: {texts: [wikitext2, c4], trials: 150, space: {alpha_max: 2}}
recovery: [none, lora]
evaluate:
  tasks: [boolq, piqa, arc]
"""

SMALL = """\
description: a small real model on real data
map:
  models: {llama-7b: smollm2-135m, vicuna-7b: smollm2-135m}
  datasets:
    bookcorpus: gutenberg
    alpaca: short-alpaca
    wikitext2: wiki-small
  tasks: {boolq: quiz, piqa: quiz}
  structure_ratio:
    0.25: 0.20
    0.5: 0.40
set:
  prune:
    layers: [2, 8]
  search:
    trials: 45
    space: {coarse_scale: [0.5]}
  seeds: [0, 1]
"""

TINY = """\
map: {models: {smollm2-135m: tiny}, datasets: {gutenberg: python-topics}}
set: {search: {trials: 3}, seeds: 7}
"""


@pytest.fixture
def profiles(write):
    write(SMALL, "profiles/small.yaml")
    write(TINY, "profiles/tiny.yaml")
    write("description: as the paper\n", "specs/profiles/paper.yaml")


class TestProfiles:
    def test_names_are_mapped_wherever_they_stand(self, load, profiles):
        spec = load(SPEC, ["small"])
        assert [(model.name, model.label) for model in spec.models] == [
            ("smollm2-135m", None),
            ("smollm2-135m", "Vicuna"),
        ]
        assert spec.search["texts"] == ["wiki-small", "c4"]
        assert spec.methods[1].calibration_for(spec).dataset == ["gutenberg"]
        assert spec.methods[1].search_for(spec)["texts"] == "ptb"
        assert spec.profile == ("small",)

    def test_entries_of_recoveries_and_models(self, load, write):
        write(
            "map: {models: {big: small}, datasets: {a: b, b: c}, recovery: {f: {name: g, rank: 2}}}", "profiles/p.yaml"
        )
        spec = load(
            """\
            name: x
            models:
            - {name: mine, base: big, tuned: {name: f, dataset: a, steps: 3}}
            - {name: other, base: big, tuned: f}
            methods: vector
            recovery: [{name: f, dataset: a}, {name: h, dataset: b, rank: 1}]
            """,
            ["p"],
        )
        assert [(m.name, m.base, m.tuned.name, m.tuned.parameters) for m in spec.models] == [
            ("mine", "small", "g", {"dataset": "b", "steps": 3, "rank": 2}),
            ("other", "small", "g", {"rank": 2}),
        ]
        assert [(one.name, one.parameters) for (one,) in spec.recovery] == [
            ("g", {"dataset": "b", "rank": 2}),
            ("h", {"dataset": "c", "rank": 1}),
        ]
        assert spec.where(("models", 1, "tuned", "rank")) == "profiles/p.yaml:1"

    def test_what_becomes_equal_becomes_one(self, load, profiles):
        assert load(SPEC, ["small"]).evaluate["tasks"] == ["quiz", "arc"]
        both = load(BASE.replace("[tiny]", "[llama-7b, vicuna-7b]"), ["small"])
        assert [model.name for model in both.models] == ["smollm2-135m"]

    def test_structure_ratios_become_ratios(self, load, profiles):
        spec = load(SPEC, ["small"])
        assert (spec.prune.ratio, spec.prune.structure_ratio) == ([0.20, 0.40], None)
        own = spec.methods[1].prune_for(spec, spec.models[0])
        assert (own.ratio, own.structure_ratio) == ([0.20], None)

    def test_half_a_list_of_structure_ratios_is_refused(self, mistakes, profiles):
        (line,) = mistakes(BASE + "prune:\n  structure_ratio: [0.25, 0.3]", ["small"])
        assert line.startswith(
            "x.yaml:5: prune.structure_ratio: profile 'small' has a ratio for others but not for 0.3"
        )

    def test_each_value_knows_its_file(self, load, profiles):
        spec = load(SPEC, ["small"], ["seeds=3"])
        assert spec.where(("prune", "layers")) == "profiles/small.yaml:14"
        assert spec.where(("search", "trials")) == "profiles/small.yaml:16"
        assert spec.where(("search", "space", "alpha_max")) == "x.yaml:7"
        assert spec.where(("models", 0, "name")) == "profiles/small.yaml:3"
        assert spec.where(("methods", 1, "calibration", "dataset")) == "profiles/small.yaml:5"
        assert spec.where(("models", 1, "label")) == "x.yaml:2"
        assert spec.where(("search", "texts", 1)) == "x.yaml:7"
        assert spec.where(("prune", "ratio", 1)) == "profiles/small.yaml:11"
        assert spec.where(("seeds", 0)) == "--set"

    @pytest.mark.parametrize(
        ("text", "start", "words"),
        [
            ("maps: {}", "profiles/p.yaml:1: unknown key 'maps'", "did you mean 'map'?"),
            ("models: {}", "profiles/p.yaml:1: unknown key 'models'", "it belongs in 'map'"),
            ("map:\n  model: {}", "profiles/p.yaml:2: map: unknown key 'model'", "did you mean 'models'?"),
            (
                "map:\n  models:\n    a: 5",
                "profiles/p.yaml:3: map.models.a: should be text or a mapping with a 'name', not 5",
                "quotes",
            ),
            ("map:\n  structure_ratio:\n    0.25: 20%", "profiles/p.yaml:3: map.structure_ratio.0.25: ", "write 0.2"),
            ("set: [1]", "profiles/p.yaml:1: set: should be a mapping of keys to values, not a list", ""),
            ("a: [", "profiles/p.yaml:1: not valid YAML", ""),
        ],
    )
    def test_mistakes_in_the_profile_itself(self, mistakes, write, text, start, words):
        write(text, "profiles/p.yaml")
        line = mistakes(BASE, ["p"])[0]
        assert line.startswith(start)
        assert words in line

    @pytest.mark.parametrize("section", ["calibration", "evaluate", "search", "recovery", "prune", "models", "methods"])
    @pytest.mark.parametrize("value", ["5", "[[1]]", "[{name: {}}]"])
    def test_a_map_over_a_malformed_section_leaves_the_mistake_to_be_told(self, mistakes, write, section, value):
        write(SMALL.partition("set:")[0], "profiles/map.yaml")
        text = "".join(line for line in BASE.splitlines(True) if not line.startswith(section))
        lines = mistakes(f"{section}: {value}\n{text}", ["map"])
        assert lines
        assert all(line.startswith("x.yaml:1: " + section) for line in lines)


class TestFindingProfiles:
    def test_beside_the_spec_before_the_working_directory(self, write, profiles):
        write("set: {seeds: 1}", "mine/profiles/small.yaml")
        write("set: {seeds: 2}", "specs/profiles/small.yaml")
        assert load_spec(write(BASE, "mine/x.yaml"), ["small"]).seeds == [1]
        assert load_spec(write(BASE, "elsewhere/x.yaml"), ["small"]).seeds == [2]


class TestSet:
    @pytest.mark.parametrize(
        ("override", "written"),
        [
            ("prune.ratio=0.3", "prune: {ratio: 0.3}"),
            ("search.space.alpha_max=2", "search: {space: {alpha_max: 2}}"),
            ("evaluate.limit=null", "evaluate: {limit: null}"),
            ("title=a=b", "title: a=b"),
            ("recovery={name: lora, learning_rate: 3e-4}", "recovery: {name: lora, learning_rate: 0.0003}"),
        ],
    )
    def test_as_if_it_stood_in_the_file(self, load, override, written):
        assert load(BASE, overrides=[override]) == load(BASE + written)

    def test_entries_of_lists(self, load):
        spec = load(SPEC, overrides=["methods.0.label=mine", "methods.1.prune.ratio=0.3", "models.0=tiny"])
        assert (spec.methods[0].name, spec.methods[0].label) == ("vector", "mine")
        assert spec.methods[1].prune_for(spec, spec.models[0]).ratio == [0.3]
        assert spec.methods[1].prune_for(spec, spec.models[0]).structure_ratio is None
        assert [model.name for model in spec.models] == ["tiny", "vicuna-7b"]
        assert spec.where(("methods", 0, "label")) == "--set"
        assert spec.where(("methods", 0, "name")) == "x.yaml:4"

    @pytest.mark.parametrize(
        ("override", "start", "words"),
        [
            ("seeds", "--set: 'seeds' is not dotted.key=value", "prune.ratio=0.3"),
            ("=5", "--set: '=5' is not dotted.key=value", ""),
            ("seeds=[0", "--set: seeds: not valid YAML", "bracket"),
            ("prune.ratio=2", "--set: prune.ratio: should be a fraction", ""),
            ("prune.ratio=", "--set: prune.ratio: is empty", "0.20"),
            ("prun.ratio=0.2", "--set: unknown key 'prun'", "did you mean 'prune'?"),
            ("methods.1.label=a", "--set: methods: has no entry 1", "the last is 0"),
            ("methods.label=a", "--set: methods: is a list", "methods.0.label"),
            ("seeds.0=1", "--set: seeds: is not written in the spec", "the whole list"),
            ("name.a=1", "--set: name: holds a value, not keys", "'a'"),
        ],
    )
    def test_mistakes(self, mistakes, override, start, words):
        (line,) = mistakes(BASE, overrides=[override])
        assert line.startswith(start)
        assert words in line


ENTRIES = """\
map:
  models:
    llama-7b: {name: small, dtype: bfloat16}
    vicuna-7b: {name: sibling, base: small, tuned: {name: lora, steps: 3}}
  recovery: {lora: {name: lora, steps: 5, batch: 8}}
  structure_ratio: {0.25: 0.20, 0.5: 0.40}
"""

TRANSFER = """\
name: x
models: [vicuna-7b, {name: llama-7b, label: mine, prune: {structure_ratio: 0.5}}]
methods:
- vector
- {name: adapruner, search: {transfer: {model: llama-7b, structure_ratio: 0.25}}}
prune: {structure_ratio: 0.25}
recovery: [none, {name: lora, batch: 16, rank: 4}]
"""


class TestWholeEntries:
    """A profile may put an entry with keys in the place of a name, and says what stands for what."""

    @pytest.fixture
    def spec(self, load, write):
        write(ENTRIES, "profiles/e.yaml")
        return load(TRANSFER, ["e"])

    def test_a_transfer_and_a_models_own_ratio_are_mapped(self, spec):
        assert spec.methods[1].search_for(spec) == {"transfer": {"model": "small", "ratio": 0.20}}
        assert spec.methods[0].prune_for(spec, spec.models[1]).ratio == [0.40]
        assert spec.methods[0].prune_for(spec, spec.models[0]).ratio == [0.20]

    def test_what_stands_for_what(self, spec, load, write):
        assert spec.stands_for == {"sibling": "vicuna-7b", "small": "llama-7b"}
        assert load(TRANSFER).stands_for == {}
        write("map: {models: {small: tiny}}", "profiles/f.yaml")
        assert load(TRANSFER, ["e", "f"]).stands_for == {"sibling": "vicuna-7b", "tiny": "llama-7b"}

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ("{name: a, base: tiny}", "'base' and 'tuned' stand together"),
            ("{name: a, tuned: lora}", "'base' and 'tuned' stand together"),
            ("{name: a, base: tiny, tuned: none}", "name the base itself"),
            ("{name: a, prune: {ratio: 2}}", "prune.ratio"),
        ],
    )
    def test_half_a_derived_model_is_refused(self, mistakes, model, message):
        (line,) = mistakes(f"name: x\nmodels: [{model}]\nmethods: [vector]\n")
        assert line.startswith("x.yaml:2: models[0]") and message in line
