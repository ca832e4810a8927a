"""Latencies of reading and writing, from the spec to the row."""

import json
from pathlib import Path

import pytest

from reproducer.cli import main
from reproducer.spec import SpecError, load_spec
from reproducer.stages.expand import expand

SPEC = """\
name: speeds
models: [tiny]
methods: [magnitude, {name: magnitude, label: rounded, prune: {structure_ratio: 0.2, round_to: 64}}]
prune: {ratio: 0.2, layers: [0, 6]}
evaluate:
  perplexity: []
  speed: {prefill: 12, decode: 3, repeats: 4, warmup: 1}
"""


def test_rows_are_timed_and_their_widths_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    assert main(["spec.yaml", "--device", "cpu"]) == 0
    speeds = [row["measured"]["speed"] for row in json.loads(Path("out/speeds/results.json").read_text())["rows"]]
    assert all(len(one["prefill"]) == len(one["decode"]) == 4 and min(one["prefill"]) > 0 for one in speeds)
    dense, any_width, rounded = ((one["missed"], one["layers"]) for one in speeds)
    assert dense == (6, 6) and any_width == (6, 6) and rounded == (0, 6)  # 160 is no multiple of 64
    assert "Reading and writing" in Path("out/speeds/report.md").read_text()


def test_a_tuned_row_has_the_times_of_its_plan(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC + "recovery: [none, lora]\n")
    rows = [row for row in expand(load_spec(path)).rows if row.label == "rounded"]
    assert [row.recovery for row in rows] == ["none", "lora"]
    assert rows[0].stages["speed"].key == rows[1].stages["speed"].key


def test_a_prompt_longer_than_the_context_is_told_with_its_line(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace("prefill: 12", "prefill: 2046"))
    with pytest.raises(SpecError, match=r"spec.yaml:7: evaluate.speed.prefill: 2049 tokens .* context of .*2048"):
        expand(load_spec(path))
