"""Rows taken over from an earlier results.json: the same as if they had run, and nothing of them runs."""

import json
from dataclasses import replace

import pytest

from reproducer.cli import main
from reproducer.options import Options
from reproducer.queue import Store, survey
from reproducer.running import run_stages
from reproducer.spec import load
from reproducer.stages.collect import collect
from reproducer.stages.document import expand_all
from reproducer.stages.known import Known

SPEC = """\
name: known
models: [tiny]
methods: [magnitude, {name: adapruner, search: {mode: paper, trials: 3, windows: 2}}]
prune: {ratio: 0.2}
calibration: {dataset: python-topics, samples: 2, length: 16}
evaluate: {perplexity: [python-topics], windows: 2, seq_len: 32, tasks: [quiz], limit: 6}
"""
MORE = SPEC.replace("magnitude,", "magnitude, llm-pruner-e2,")
TIMED = SPEC.replace("limit: 6", "limit: 6, speed: {prefill: 4, decode: 2, repeats: 1}")
COST = ("seconds", "deciding_seconds", "recovery_seconds", "peak_memory_bytes")  # never twice the same


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished run of SPEC."""
    folder = tmp_path_factory.mktemp("made")
    run(folder, SPEC)
    return folder


def run(folder, spec, known=None, running=True):
    """Results of a run in `folder`, with a store of its own, or of what is there; no report is rendered."""
    (folder / "spec.yaml").write_text(spec)
    expansion = expand_all(load(folder / "spec.yaml"))
    if known is not None:
        expansion = replace(expansion, known=Known.read(known))
    if running:
        outcome = run_stages(expansion, Options(store=folder / "store", devices=("cpu",)), None)
    else:
        outcome = survey(expansion.stages, Store(folder / "store"))
    text = collect(expansion, outcome).to_json()
    file_of(folder).write_text(text)
    return json.loads(text)


def command(folder, spec, *options):
    """The exit code of `reproduce`."""
    (folder / "spec.yaml").write_text(spec)
    places = ["--store", str(folder / "store"), "--out", str(folder / "out")]
    return main(["run", str(folder / "spec.yaml"), *places, *options])


def results(folder):
    return json.loads(file_of(folder).read_text())


def file_of(folder):
    return folder / "results.json"


def stages(folder):
    return sorted(path.parent.parent.name for path in (folder / "store").glob("*/*/record.json"))


def same(row, other):
    """Whether two rows say the same, but for what they cost and where they ran."""
    left_out = (*COST, "earlier")
    return {k: v for k, v in row.items() if k not in left_out} == {k: v for k, v in other.items() if k not in left_out}


def test_nothing_runs_and_the_report_is_the_same(made, tmp_path, capsys):
    assert command(tmp_path, SPEC, "--known", str(file_of(made))) == 0
    found, before = json.loads((tmp_path / "out/known/results.json").read_text()), results(made)
    assert stages(tmp_path) == []
    assert [row["earlier"] for row in found["rows"]] == [0, 0, 0]
    assert [{**row, "earlier": None} for row in found["rows"]] == before["rows"]
    for name in ("models", "columns", "searches", "texts", "tasks", "calibration", "environment", "sources"):
        assert found[name] == before[name], name
    kinds = {one["kind"]: (one["stages"], one["done"]) for one in found["stages"]}
    assert kinds == {one["kind"]: (one["stages"], one["done"]) for one in before["stages"]}
    assert found["seconds"] == 0 and found["earlier"][0]["seconds"] == before["seconds"] > 0
    printed = capsys.readouterr().out
    assert f"3 of 3 rows are taken from {file_of(made)}" in printed
    assert "3 rows (3 taken over) from 0 stages (none to run)" in printed
    pages = [(tmp_path / "out/known" / name).read_text() for name in ("report.md", "appendix.md")]
    assert any("That is without the rows that were taken over from earlier runs" in page for page in pages)
    assert any("rows from an earlier run: 3, made on" in page for page in pages)


@pytest.fixture(scope="module")
def added(made, tmp_path_factory):
    """The folder of a run of MORE beside the known rows."""
    folder = tmp_path_factory.mktemp("added")
    run(folder, MORE, file_of(made))
    return folder


def test_a_new_row_runs_alone_and_stands_beside_the_known_ones(added, tmp_path):
    assert stages(added) == ["model", "perplexity", "prune", "zeroshot"]
    found, whole = results(added), run(tmp_path, MORE)
    assert [row["earlier"] for row in found["rows"]] == [0, 0, None, 0]
    for one, other in zip(found["rows"], whole["rows"], strict=True):
        assert same(one, other), one["label"]
    assert found["rows"][2]["search_objective"] == whole["rows"][2]["search_objective"] is not None
    assert found["models"] == whole["models"] and found["sources"] == whole["sources"]


def test_a_row_with_fewer_measures_takes_those_alone(made, tmp_path):
    found = run(tmp_path, SPEC.replace(", tasks: [quiz], limit: 6", ", tasks: []"), file_of(made))
    for row, before in zip(found["rows"], results(made)["rows"], strict=True):
        assert row["metrics"] == {"python_topics_ppl": before["metrics"]["python_topics_ppl"]}
        assert row["measured"] == {"python_topics_ppl": before["measured"]["python_topics_ppl"]}
        assert row["seconds"] is None
        assert row["earlier"] == 0


@pytest.mark.parametrize("change", [("ratio: 0.2", "ratio: 0.3"), ("windows: 2, seq_len", "windows: 3, seq_len")])
def test_another_recipe_is_another_row(made, tmp_path, change):
    found = run(tmp_path, SPEC.replace(*change), file_of(made), running=False)
    dense, *pruned = (row["status"] for row in found["rows"])
    assert pruned == ["missing", "missing"]
    assert dense == ("done" if "ratio" in change[0] else "missing")


def test_times_are_taken_here(made, tmp_path):
    """Times of another machine do not compare with this one's, so they are measured again."""
    run(tmp_path, TIMED)
    other = tmp_path / "other"
    other.mkdir()
    found = run(other, TIMED, file_of(tmp_path), running=False)
    assert {row["status"] for row in found["rows"]} == {"missing"}
    assert all("speed" not in row["measured"] and len(row["measured"]) == 2 for row in found["rows"])


@pytest.mark.parametrize("status", ["failed", "missing"])
def test_only_finished_rows_are_taken(made, tmp_path, status):
    changed = results(made)
    changed["rows"][1]["status"] = status
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    found = run(tmp_path, SPEC, tmp_path / "changed.json", running=False)
    assert [row["status"] for row in found["rows"]] == ["done", "missing", "done"]


def test_rows_on_other_data_are_refused_before_anything_runs(made, tmp_path, capsys):
    changed = results(made)
    source = next(one for one in changed["sources"] if one["name"].startswith("python-topics (report"))
    source["digest"] = "0" * 64
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    assert command(tmp_path, MORE, "--known", str(tmp_path / "changed.json")) == 2
    assert f"other data than here was read for {tmp_path / 'changed.json'}: python-topics (report)" in (
        capsys.readouterr().err
    )
    assert stages(tmp_path) == []


def test_a_search_that_was_only_taken_over_is_still_told(tmp_path):
    spec = SPEC.replace("trials: 3,", "transfer: {ratio: 0.3}, trials: 3,")
    made, other = tmp_path / "made", tmp_path / "other"
    made.mkdir()
    other.mkdir()
    before = run(made, spec)
    found = run(other, spec, file_of(made))
    assert before["searches"] == found["searches"] != []
