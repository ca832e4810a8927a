"""mypy, as one of the tests: so that it runs beside the others."""

import subprocess
import sys
from pathlib import Path

import pytest


def test_types_agree():
    pytest.importorskip("mypy", reason="mypy is not installed")
    found = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr
