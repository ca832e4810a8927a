"""Kinds of stages: each is a file of its own, and a new one is all that it takes."""

from __future__ import annotations

import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import reproducer.stages
from reproducer.queue import Stage
from reproducer.spec import load_spec
from reproducer.stages.base import Measure, OnModel, measures
from reproducer.stages.expand import expand

SPEC = """\
name: kinds
models: [{name: tuned, base: tiny, tuned: {name: lora, steps: 4}}]
methods: [vector, adapruner]
recovery: [lora]
evaluate:
  perplexity: [python-topics]
  tasks: [quiz]
  generate: [Once upon]
  efficiency: {length: 8}
  gguf: {types: [q8_0]}
  speed: {prefill: 8, decode: 2}
"""


def kinds(of: type[Stage] = Stage) -> list[type[Stage]]:
    """All kinds of the package: subclasses that name one."""
    measures()  # imports every module
    found = [kind for kind in of.__subclasses__() if kind.__module__.startswith("reproducer.")]
    return [kind for kind in found if "kind" in vars(kind)] + [one for kind in found for one in kinds(kind)]


def test_each_kind_has_its_name_for_itself_and_lives_with_the_stages():
    names = [kind.kind for kind in kinds()]
    assert sorted(names) == sorted(set(names)) and {"model", "prune", "search", "perplexity"} < set(names)
    assert {kind.__module__.rpartition(".")[0] for kind in kinds()} == {"reproducer.stages"}


@pytest.mark.parametrize("kind", sorted(kinds(), key=lambda kind: kind.kind), ids=lambda kind: kind.kind)
def test_a_kinds_parameters_work_result_and_cost_stand_in_one_file(kind):
    own = Path(inspect.getfile(kind)).read_text()
    assert f'"{kind.kind}"' in own
    for path in Path(reproducer.stages.__file__).parent.glob("*.py"):
        if path != Path(inspect.getfile(kind)):
            assert f'kind: ClassVar[str] = "{kind.kind}"' not in path.read_text()
    for name in ("run", *(["stages_for", "facts"] if issubclass(kind, Measure) else [])):
        assert getattr(kind, name).__module__ == kind.__module__
    if issubclass(kind, OnModel) and kind.kind != "training":  # nobody can count what a method's training does
        assert kind.cost is not OnModel.cost, "what it takes is estimated before it runs"
    if issubclass(kind, Measure):
        assert kind.Keys.__module__ == kind.__module__ and kind.Result.__module__.startswith("reproducer.stages.")


def test_stages_are_frozen_and_the_same_in_another_process(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    stages = expand(load_spec(path)).stages
    assert {stage.kind for stage in stages} == {kind.kind for kind in kinds()} - {"training"}
    for stage in stages:
        again = pickle.loads(pickle.dumps(stage))
        assert again == stage and again.key == stage.key and again.label == stage.label
        assert json.loads(json.dumps(stage.params)) == stage.params
        with pytest.raises(ValueError, match="frozen"):
            stage.label = "another"
        with pytest.raises(ValueError, match="extra"):
            type(stage)(**dict(stage), another=1)


DEPTH = """\
from typing import ClassVar

from reproducer.spec import Section
from reproducer.stages.base import Measure, write_result
from reproducer.stages.cost import Cost
from reproducer.stages.results import Column, Facts


class Depth(Measure):
    kind: ClassVar[str] = "depth"
    rank: ClassVar[int] = 5

    class Keys(Section):
        depth: bool = False

    class Result(Facts):
        layers: int

    @classmethod
    def stages_for(cls, evaluate, spec, state):
        return [cls(**state.fields, label=f"{state.label}: depth")] if evaluate.depth else []

    @property
    def role(self):
        return "depth"

    def columns(self):
        return [Column(key="depth", label="Depth", kind="other", higher_is_better=False)]

    def facts(self, result, device):
        return {"metrics": {"depth": result.layers}}

    def cost(self, model):
        return Cost()

    def run(self, context):
        model, _ = self.load(context)
        write_result(context, self.Result(layers=len(model.model.layers)))
"""


def test_a_new_kind_of_measure_is_one_file(tmp_path):
    """Its key in a spec, its column, its cost and its place in the report follow from it."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/depth.py").write_text(DEPTH)
    (tmp_path / "spec.yaml").write_text(
        "name: deep\nmodels: [tiny]\nmethods: [magnitude]\nprune: {ratio: 0.2}\n"
        "evaluate: {perplexity: [], depth: true, efficiency: {length: 8, repeats: 1, warmup: 0}}\n"
    )
    program = (
        "import sys, reproducer.stages; from reproducer.cli import main\n"
        f"reproducer.stages.__path__.append({str(tmp_path / 'stages')!r})\n"
        "codes = [main(['spec.yaml', '--dry-run']), main(['spec.yaml'])]\n"
        "codes += [main(['spec.yaml', '--set', 'evaluate={dpth: true}'])]\n"
        "print(codes)"
    )
    made = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert made.stdout.splitlines()[-1] == "[0, 0, 2]"
    assert "unknown key 'dpth'; did you mean 'depth'?" in made.stderr
    results = json.loads((tmp_path / "out/deep/results.json").read_text())
    assert results["columns"][0]["key"] == "depth"
    assert [row["metrics"]["depth"] for row in results["rows"]] == [6, 6]
    assert "Depth" in (tmp_path / "out/deep/report.md").read_text()
