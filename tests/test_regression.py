"""The quickstart's spec on the tiny profile against committed numbers."""

import json
import sys
from pathlib import Path

import pytest

from reproducer.cli import main

ROOT = Path(__file__).parents[1]
BASELINE = ROOT / "tests/baselines/quickstart-tiny.json"
PYTHON = json.loads(BASELINE.read_text())["environment"]["python"].rpartition(".")[0]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.skipif(HERE != PYTHON, reason=f"built-in texts are the running Python's: the baseline is of {PYTHON}")
def test_the_quickstarts_numbers_are_the_committed_ones(tmp_path):
    spec, folders = ROOT / "specs/quickstart.yaml", ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    given = ["--profile", "tiny", "--set", "evaluate.tasks=[]", "--against", str(BASELINE), "--tolerance", "0.005"]
    assert main(["check", str(spec), *given, *folders]) == 0
