"""All methods in one spec, on two shapes of model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reproducer.cli import main
from reproducer.methods.registry import METHODS

SPEC = Path(__file__).parents[1] / "specs" / "rivals.yaml"
SEARCHED = {"best-draw"}  # a control, which a word in a spec adds


# grouped queries and fused projections; biases, learned positions and no gate
@pytest.mark.parametrize("model", ["tiny-phi3", pytest.param("tiny-opt", marks=pytest.mark.slow)])
def test_every_method_runs_on_every_shape_of_model(tmp_path, model):
    folders = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    smaller = (f"models=[{model}]", "evaluate.tasks=[]", "evaluate.windows=2", "search.trials=4")
    assert main([str(SPEC), "--profile", "tiny", *(part for one in smaller for part in ("--set", one)), *folders]) == 0
    results = json.loads((tmp_path / "out" / "rivals" / "results.json").read_text())
    rows = [row for row in results["rows"] if row["method"] != "dense"]
    own = {name for name, method in METHODS.all().items() if method.__module__.startswith("reproducer.")}
    assert {row["method"] for row in rows} == own - SEARCHED
    assert all(row["status"] == "done" and row["params_removed"] > 0.1 for row in rows)
    assert all(row["tokens"] is not None for row in rows)
    uneven = {row["method"] for row in rows if abs(row["params_removed"] - 0.2) > 0.005}
    assert uneven <= {"shortened-llama"}, "whole layers are coarse"
