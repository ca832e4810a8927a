"""Kinds of stages: each is a file of its own, and a new one is all that it takes."""

from __future__ import annotations

import json
import pickle

import pytest

from reproducer.queue import Stage
from reproducer.spec import load_spec
from reproducer.stages.expand import expand
from reproducer.stages.measure import measures

SPEC = """\
name: kinds
models: [{name: tuned, base: tiny, tuned: {name: lora, steps: 4, warmup_steps: 1}}]
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
    below = [kind for other in found for kind in kinds(other)]
    return list(dict.fromkeys([*(kind for kind in found if "kind" in vars(kind)), *below]))


def test_each_kind_has_its_name_for_itself_and_lives_with_the_stages():
    names = [kind.kind for kind in kinds()]
    assert sorted(names) == sorted(set(names)) and {"model", "prune", "search", "perplexity"} < set(names)
    assert {kind.__module__.rpartition(".")[0] for kind in kinds()} == {"reproducer.stages"}


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
