"""The measure in llama.cpp, from the spec to the row."""

import json
import math
import sys
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path

import pytest

from reproducer.cli import main
from reproducer.queue import Context
from reproducer.spec import SpecError, load_spec
from reproducer.stages.expand import expand

SPEC = """\
name: files
models: [tiny-gqa]
methods: [flap]
calibration: {dataset: python-topics, samples: 4, length: 32}
recovery: [lora]
evaluate:
  perplexity: [python-topics]
  windows: 4
  gguf: {types: [f16, q8_0], windows: 3, prefill: 40, decode: 8, repeats: 2}
"""


@pytest.fixture
def spec(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def run(spec: Path, *options: str) -> tuple[int, list[dict]]:
    lora = "recovery=[{name: lora, batch: 4, steps: 2, warmup_steps: 1, dataset: builtin-instructions}]"
    code = main([str(spec), "--device", "cpu", "--set", lora, *options])
    return code, json.loads(Path("out/files/results.json").read_text())["rows"]


def test_dense_and_tuned_rows_are_measured(spec):
    """FLAP's biases and the merged adapter are part of the files: llama.cpp's perplexities are those of the rows."""
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
    code, rows = run(spec)
    assert code == 0 and len(rows) == 2
    for row in rows:
        exact, quantised = (row["measured"][name] for name in ("gguf_f16", "gguf_q8_0"))
        here = math.exp(sum(row["measured"]["python_topics_ppl"]["nll_per_window"][:3]) / 3)
        assert exact["perplexity"] == pytest.approx(here, rel=0.005)
        assert quantised["perplexity"] == pytest.approx(here, rel=0.03)
        assert quantised["bytes"] < exact["bytes"] and [exact["type"], quantised["type"]] == ["f16", "q8_0"]
        assert len(exact["prefill"]) == len(exact["decode"]) == 2 and min(exact["prefill"] + exact["decode"]) > 0
        assert (
            exact["engine"].startswith("xllamacpp ") and "cores" in exact["device"] and exact["text"] == "python-topics"
        )
    dense, tuned = (row["measured"]["gguf_f16"] for row in rows)
    assert dense["architecture"] == "llama" and tuned["architecture"] == "deci"
    assert tuned["bytes"] == pytest.approx(0.8 * dense["bytes"], rel=0.05)
    assert "In llama.cpp" in Path("out/files/report.md").read_text()
    kept = {path.name for path in Path("store/gguf").glob("*/*")}
    assert kept == {"record.json", "result.json"}  # no files of models, which are as large as the models


def test_without_llama_cpp_the_rows_fail_with_what_to_install(spec, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    code, rows = run(spec, "--set", "recovery=none")
    assert code == 1
    assert {row["status"] for row in rows} == {"failed"}
    assert all("pip install xllamacpp" in row["error"] and row["metrics"]["python_topics_ppl"] for row in rows)


def test_a_row_survives_that_llama_cpp_ends_its_process(spec, monkeypatch):
    """As it does where one of its own checks fails: the stage fails, and not the run."""
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
    monkeypatch.setattr(Context, "engine", lambda self, count: Ending())
    code, rows = run(spec, "--set", "recovery=none")
    assert code == 1
    assert all("llama.cpp has ended its own process" in row["error"] for row in rows)


class Ending:
    """An engine whose processes end with their first call."""

    def submit(self, function, *arguments):
        future = Future()
        future.set_exception(BrokenExecutor())
        return future


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("q8_0]", "q9_0]", r"spec.yaml:9: evaluate.gguf.types\[1\]: 'q9_0' is no type of GGUF.*did you mean 'q8_0'"),
        ("prefill: 40", "prefill: 2041", r"spec.yaml:9: evaluate.gguf.prefill: 2049 tokens .* context of .*2048"),
    ],
)
def test_mistakes_are_told_with_their_line(spec, old, new, message):
    assert old in SPEC
    spec.write_text(SPEC.replace(old, new))
    with pytest.raises(SpecError, match=message):
        expand(load_spec(spec))
