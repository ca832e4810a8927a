"""Every kind of recovery in one spec, through the command line, under the tiny profile."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from reproducer.cli import main
from reproducer.spec import load_spec

PROFILES = Path(__file__).parents[2] / "specs" / "profiles"
SPEC = """\
name: recoveries
models: [llama-7b]
methods: [magnitude]
prune: {structure_ratio: 0.25, layers: [4, 30]}
recovery: [lora, {name: groupwise, bits: 3}, two-source]
evaluate: {perplexity: [wikitext2]}
"""


def test_all_kinds_run_and_a_second_run_computes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    arguments = ["spec.yaml", "--profile", str(PROFILES / "tiny.yaml")]
    assert main(arguments) == 0
    found = json.loads(Path("out/recoveries/results.json").read_text())
    dense, *rows = found["rows"]
    assert [row["recovery"] for row in rows] == ["lora", "groupwise", "two-source"]
    assert [len(row["training"]) for row in rows] == [4, 4, 4 + 4]
    assert all(row["status"] == "done" and row["params"] == rows[0]["params"] < dense["params"] for row in rows)
    perplexities = [row["metrics"]["python_topics_ppl"] for row in rows]
    assert all(map(math.isfinite, perplexities)) and len(set(perplexities)) == 3
    used = {one["name"]: one for one in found["recoveries"]}
    assert {name: one["label"] for name, one in used.items()} == {
        "lora": "LoRA",
        "groupwise": "Group-wise",
        "two-source": "Two-source",
    }
    assert used["groupwise"]["settings"]["bits"] == 3
    assert used["two-source"]["settings"]["text"] == "python-topics"
    stage = Path("store/recovery", rows[2]["stages"]["recovery"])
    assert len(json.loads((stage / "passages.json").read_text())["losses"]) == 8
    assert "Group-wise" in Path("out/recoveries/report.md").read_text()
    capsys.readouterr()
    assert main(arguments) == 0
    assert "9 stages (9 cached)" in capsys.readouterr().out


@pytest.mark.parametrize("profile", ["small", "tiny"])
def test_a_profile_makes_every_kind_as_small_as_lora(tmp_path, profile):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    lora, groupwise, two_source = (
        one.parameters for (one,) in load_spec(path, [PROFILES / f"{profile}.yaml"]).recovery
    )
    assert groupwise == {**lora, "bits": 3}
    assert {key: value for key, value in two_source.items() if not key.startswith("text_")} == lora
    assert two_source["text_steps"] <= lora["steps"]
