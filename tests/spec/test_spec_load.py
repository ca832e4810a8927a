"""What a spec's text means once it is loaded."""

import pickle
import subprocess
import sys

import pytest

from reproducer.spec import CalibrationSpec, PruneSpec, RecoverySpec, Spec

BASE = "name: x\nmodels: [tiny]\nmethods: [magnitude]\n"


def test_only_name_models_and_methods_are_required(load):
    spec = load(BASE)
    assert spec.prune == PruneSpec(ratio=[0.20])
    assert spec.recovery == [[RecoverySpec(name="none")]]
    assert spec == Spec(name="x", models=["tiny"], methods=["magnitude"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", 1000),
        ("true", True),
        ("yes", "yes"),
        ("~", None),
        ("1:30", "1:30"),
        ("-.5", -0.5),
        ("2024-01-31", "2024-01-31"),
        ("'7'", "7"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(load, text, value):
    loaded = load(BASE + f"search: {{a: {text}}}").search["a"]
    assert (loaded, type(loaded)) == (value, type(value))


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


def test_a_spec_built_in_python_names_itself():
    spec = Spec(name="mine", models=["tiny"], methods=["magnitude"])
    assert spec.where(("models", 0)) == "spec 'mine'"
    assert str(spec.error(("models", 0), "no")) == "spec 'mine': models[0]: no"
    assert (spec.path, spec.profile) == (None, ())


def test_an_error_can_cross_processes(load):
    error = load(BASE).error(("name",), "taken")
    copy = pickle.loads(pickle.dumps(error))
    assert (
        (str(copy), copy.file, copy.line)
        == (str(error), error.file, error.line)
        == ("x.yaml:1: name: taken", "x.yaml", 1)
    )


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
