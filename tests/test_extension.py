"""A user's own modules (tests/extension) through specs and the command line; nothing of the package is touched.

Each lies beside the spec that names it. What a method or an engine does by itself is tested in its room.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from reproducer.cli import main
from reproducer.methods.registry import METHODS
from reproducer.pruning.plan import Plan
from reproducer.queue import ENGINES
from reproducer.recovery.registry import RECOVERIES
from reproducer.reporting.numbers import plus_minus
from reproducer.search.record import Record
from reproducer.spec import load_spec
from reproducer.stages.expand import expand

EXTENSION = Path(__file__).parent / "extension"
PACKAGE = Path(__file__).parents[1] / "reproducer"
MODULES = sorted(path for path in EXTENSION.glob("my_*.py"))
BODY = """\
prune: {structure_ratio: 0.25, layers: [1, 5]}
calibration: {dataset: python-topics, samples: 3, length: 32, pool: 20}
evaluate:
  perplexity: [python-topics]
  seq_len: 32
  windows: 4
  measures: [{name: "my_measure:Widths", layers: 2}]
"""
RECOVERY = """\
recovery:
  - none
  - {name: "my_recovery:NormTuning", dataset: builtin-instructions, examples: 8, steps: 2, batch: 4, warmup_steps: 0}
  - {name: "my_edit:Rounding", bits: 6}
"""


def spec_of(*methods: str, more: str = "") -> str:
    """A spec of these methods, each an entry as it stands in YAML."""
    listed = "".join(f"  - {method}\n" for method in methods)
    return f"name: own\nmodels: [tiny-gqa]\nmethods:\n{listed}{BODY}{more}"


WANDA = "my_wanda:my_wanda"
GATES = '{name: "my_gates:my_gates", parameters: {steps: 3}}'
SEARCHED = (
    '{name: "my_search:my_mixture", search: {trials: 3, windows: 2, space: {exponents: [2.0]}, '
    '"baselines": [magnitude, "my_wanda:my_wanda", "my_bias:my_bias", "my_layers:my_layers"]}}'
)
SPEC = spec_of("magnitude", WANDA, "my_bias:my_bias", "my_layers:my_layers", GATES, SEARCHED, more=RECOVERY)
NOT_MEASURED = ("--set", "evaluate.perplexity=[]", "--set", "evaluate.measures=[]")
OWN = {
    "My Wanda": "my-wanda",
    "Fluctuation with bias": "my-bias",
    "Whole layers": "my-layers",
    "Learned gates": "my-gates",
    "Mixture": "my-mixture",
}
TUNED = "my_recovery:NormTuning"


def forget() -> None:
    """Let Python import the user's modules anew, as another process would."""
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture(scope="module")
def isolated():
    """What the user's modules register, and the folders that they lie in, are forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for registry in (METHODS, RECOVERIES, ENGINES):
            registry.all()
            patch.setattr(registry, "_things", dict(registry._things))
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second may not change a cache's time stamp
        yield patch
    forget()


@pytest.fixture
def here(tmp_path, monkeypatch, isolated):
    """A folder with the user's modules beside a spec that names them all."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()
    return tmp_path


def furnish(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in MODULES:
        (folder / path.name).write_text(path.read_text())
    (folder / "spec.yaml").write_text(SPEC)


def rows(folder: Path) -> list[dict]:
    return json.loads((folder / "out/own/results.json").read_text())["rows"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory, isolated):
    """The folder of a run of them all."""
    folder = tmp_path_factory.mktemp("own")
    furnish(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.chdir(folder)
        forget()
        assert main(["spec.yaml"]) == 0
    return folder


def plan_of(folder: Path, label: str, store: str = "store") -> Plan:
    (row,) = (row for row in rows(folder) if row["label"] == label and row["recovery"] == "none")
    (path,) = folder.glob(f"{store}/*/{row['stages']['plan']}/plan.safetensors")
    return Plan.load(path)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_each_is_short(path):
    assert len(path.read_text().splitlines()) < 60


def test_all_are_rows_of_one_table(ran):
    found = rows(ran)
    assert all(row["status"] == "done" for row in found), [row["error"] for row in found]
    assert {row["label"]: row["method"] for row in found} == {"Tiny-GQA": "dense", "Magnitude": "magnitude", **OWN}
    assert {row["recovery"] for row in found} == {"none", TUNED, "my_edit:Rounding"}
    report = (ran / "out/own/report.md").read_text()
    for row in found[1:]:
        assert 0.03 < row["params_removed"] < 0.5
        assert row["label"] in report and f" {plus_minus(row['metrics']['python_topics_ppl'], None)} " in report
    assert "Norm tuning" in report and "Rounding" in report


def test_plans_carry_what_each_method_does(ran):
    plans = {label: plan_of(ran, label) for label in OWN}
    assert {label: plan.method for label, plan in plans.items()} == OWN
    assert {label for label, plan in plans.items() if plan.tensors} == {"Fluctuation with bias"}
    assert {label for label, plan in plans.items() if plan.removed_layers} == {"Whole layers"}
    assert len(plans["Whole layers"].removed_layers) == 1  # a quarter of four
    for label in OWN.keys() - {"Whole layers"}:
        assert sorted(plans[label].kept_channels) == [1, 2, 3, 4]


def test_a_method_that_trains_has_a_stage_for_it_and_a_searched_one_its_own_space(ran):
    by_label = {row["label"]: row["stages"] for row in rows(ran)}
    assert {label for label, stages in by_label.items() if "training" in stages} == {"Learned gates"}
    assert (ran / "store/training" / by_label["Learned gates"]["training"] / "gates.safetensors").is_file()
    assert {label for label, stages in by_label.items() if "search" in stages} == {"Mixture"}
    found = Record.read(ran / "store/search" / by_label["Mixture"]["search"])
    assert found.space == {"p": [2.0], "mixing": {"low": 0.0, "high": 1.0}} and len(found.trials) == 3
    scored = {one.method: one.value for one in found.baselines}
    assert scored.keys() == {"magnitude", "my-wanda", "my-bias", "my-layers"}, "all that need no training"
    objectives = {row["method"]: row["search_objective"] for row in rows(ran)}
    assert objectives == {"dense": None, "my-gates": None, "my-mixture": found.best.value, **scored}


def test_a_recovery_of_ones_own_trains_every_pruned_row(ran):
    for row in rows(ran)[1:]:
        if row["recovery"] != TUNED:
            assert not row["training"]
            continue
        assert [step["examples"] for step in row["training"]] == [4, 8]
        assert (ran / "store/recovery" / row["stages"]["recovery"] / "norms.safetensors").is_file()


def test_a_measure_of_ones_own_has_a_typed_result_and_a_section_of_the_report(ran):
    for row in rows(ran):
        widths = row["measured"]["widths"]
        assert widths["kind"] == "widths" and len(widths["channels"]) == 2
    report = (ran / "out/own/report.md").read_text()
    assert "## Widths" in report


def test_an_edit_of_ones_own_changes_the_model_and_is_exported(ran, monkeypatch, isolated):
    """Rounded to 6 bits, a row of a matrix has no more than 63 values."""
    from safetensors.torch import load_file

    monkeypatch.chdir(ran)
    losses = {row["recovery"]: row["metrics"] for row in rows(ran) if row["label"] == "Magnitude"}
    assert losses["none"] != losses["my_edit:Rounding"]
    choice = ["--row", "Magnitude", "--recovery", "my_edit:Rounding"]
    assert main(["export", "spec.yaml", *choice, "rounded"]) == 0
    weights = load_file(ran / "rounded/model.safetensors")
    matrices = [weight for name, weight in weights.items() if ".layers." in name and weight.ndim == 2]
    assert matrices and all(row.unique().numel() <= 63 for matrix in matrices for row in matrix)


def test_a_dry_run_estimates_them_too(here, capsys):
    assert main(["spec.yaml", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(" about " in line for line in lines) > 40
    unknown = [line for line in lines if "not estimated" in line]
    assert unknown and all("training" in line or "Rounding" in line or "rounding" in line for line in unknown), unknown


def keys() -> dict[tuple[str, str, str], str]:
    forget()
    expanded = expand(load_spec(Path("spec.yaml")))
    return {(row.label, row.recovery, role): stage.key for row in expanded.rows for role, stage in row.stages.items()}


MEASURED = ("python_topics_ppl", "widths")
# A module, and the rows and roles that depend on it; the search scores the layers as a baseline.
DEPEND = {
    "my_layers": lambda label, recovery, role: label in ("Whole layers", "Mixture") and role != "model",
    "my_gates": lambda label, recovery, role: label == "Learned gates" and role != "model",
    "my_measure": lambda label, recovery, role: role == "widths",
    "my_recovery": lambda label, recovery, role: recovery == TUNED and role in ("recovery", *MEASURED),
    "my_engine": lambda label, recovery, role: False,
}


@pytest.mark.parametrize("module", DEPEND)
def test_an_edit_changes_the_keys_of_what_depends_on_the_module_and_no_others(here, monkeypatch, module):
    monkeypatch.syspath_prepend(here)
    before = keys()
    path = here / f"{module}.py"
    path.write_text(path.read_text() + "\n# another thought\n")
    after = keys()
    assert {name for name in before if before[name] != after[name]} == {n for n in before if DEPEND[module](*n)}


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "reproducer.cli", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_killed_in_training_it_goes_on_and_ends_with_the_same_plan(here, tmp_path):
    """Steps are slowed down, so that the kill comes between two of them."""
    step = "job.progress("
    source = (EXTENSION / "my_gates.py").read_text().replace(step, f"__import__('time').sleep(0.1); {step}")
    for folder in (here, whole := tmp_path / "whole"):
        folder.mkdir(exist_ok=True)
        (folder / "my_gates.py").write_text(source)
        (folder / "spec.yaml").write_text(spec_of(GATES.replace("3", "20")))
    killed, unbroken = (start(folder, "spec.yaml", *NOT_MEASURED) for folder in (here, whole))
    deadline = time.monotonic() + 120
    while not list(here.glob("store/work/*/gates.safetensors")):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert not list(here.glob("store/training/*")) and list(here.glob("store/work/*/gates.safetensors"))
    assert "goes on from an attempt that did not finish" in finish(start(here, "spec.yaml", *NOT_MEASURED))
    finish(unbroken)
    assert plan_of(here, "Learned gates") == plan_of(whole, "Learned gates")


@pytest.mark.slow
def test_an_engine_of_ones_own_runs_the_stages(here):
    """Each in a Python of its own, which finds the user's modules too, by the names that the spec has for them."""
    carried_over = SEARCHED.replace(
        "space: {exponents: [2.0]}, ",
        "space: {exponents: [2.0]}, texts: python-topics, transfer: {structure_ratio: 0.5}, ",
    )
    Path("spec.yaml").write_text(spec_of(WANDA, carried_over))
    assert main(["spec.yaml", *NOT_MEASURED, "--engine", "my_engine:Fresh", "--jobs", "2"]) == 0
    elsewhere = [plan_of(here, label) for label in ("My Wanda", "Mixture")]
    assert main(["spec.yaml", *NOT_MEASURED, "--store", "other"]) == 0
    assert [plan_of(here, label, "other") for label in ("My Wanda", "Mixture")] == elsewhere


LENT = """\
from reproducer.methods.registry import Rule, register

@register("lent", label="Lent method", source="an example", calibrated=False)
def lent() -> Rule:
    \"\"\"What an installed package brings.\"\"\"
    from reproducer.pruning.statistics import Power
    return Rule((Power(3),), lambda vectors, _: vectors[Power(3)])
"""


def install(folder: Path, source: str) -> None:
    """What pip leaves of a package with an entry point."""
    about = folder / "lender-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lender\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[reproducer.methods]\nlent = lender:lent\n")
    (folder / "lender.py").write_text(source)


def test_a_method_of_an_installed_package(here, isolated, monkeypatch, capsys):
    install(here / "site", LENT)
    monkeypatch.syspath_prepend(here / "site")
    monkeypatch.setattr(METHODS, "_complete", False)  # as in a process that has not looked yet
    Path("spec.yaml").write_text(spec_of("lent"))
    assert main(["methods"]) == 0
    assert "Lent method" in capsys.readouterr().out
    assert main(["spec.yaml", *NOT_MEASURED]) == 0
    assert plan_of(here, "Lent method").method == "lent"
    before = keys()
    (here / "site/lender.py").write_text(LENT + "# edited\n")
    assert {name[2] for name, key in keys().items() if key != before[name]} == {"plan", "python_topics_ppl", "widths"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_wandda:my_wanda", "No module named 'my_wandda'"),
        ("my_wanda:my_wandda", "has no attribute 'my_wandda'"),
        ("my_wanda:Rule", "'my_wanda:Rule' is a type, no registered method"),
        ("broken:method", "division by zero"),
    ],
)
def test_a_module_that_is_not_there_is_told_with_its_line(here, capsys, name, message):
    Path("broken.py").write_text("method = 1 / 0\n")
    Path("spec.yaml").write_text(SPEC.replace("my_wanda:my_wanda", f'"{name}"', 1))
    assert main(["spec.yaml"]) == 2
    said = capsys.readouterr().err
    assert "spec.yaml:5: methods[1]" in said and message in said and "Traceback" not in said
    assert not Path("store").exists()
