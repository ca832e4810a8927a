"""A document's rows: each once, with the measures of every spec that has it."""

import json
from pathlib import Path

import pytest

from reproducer.cli import main
from reproducer.reporting.render import render
from reproducer.spec import SpecError, load
from reproducer.stages.document import expand_all
from reproducer.stages.results import Results

SPECS = Path(__file__).parents[2] / "specs"
TABLE = """\
name: table
reproduces: {table: 1}
models: [tiny]
methods: [magnitude, llm-pruner-e2]
prune: {ratio: 0.20, layers: [1, 5]}
calibration: {dataset: python-topics, samples: 2, length: 32, pool: 20}
evaluate: {perplexity: [python-topics], seq_len: 32, windows: 2}
"""
FIGURE = TABLE.replace("table: 1", "figure: 1").replace("name: table", "name: figure").replace("magnitude, ", "")
SIZES = """\
name: sizes
models: [{name: tiny, dtype: float64}]
methods: [{name: magnitude, label: any}]
prune: {ratio: 0.20, layers: [1, 5]}
evaluate: {perplexity: [], efficiency: {length: 8, repeats: 2, warmup: 0}}
"""
ALL = """\
name: all
title: Everything
include:
  - {spec: table.yaml, set: {seeds: [0, 1]}}
  - {spec: figure.yaml, set: {evaluate: {perplexity: [python-docstrings]}}}
  - sizes.yaml
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in (("table", TABLE), ("figure", FIGURE), ("sizes", SIZES), ("all", ALL)):
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_are_there_once_with_the_measures_of_all(folder):
    whole = expand_all(load(folder / "all.yaml"))
    named = [(row.label, row.seed) for row in whole.rows]
    assert len(named) == len(set(named)) + 1 == 7  # both dense rows are called Tiny
    shared = next(row for row in whole.rows if (row.label, row.seed) == ("LLM-Pruner-E2", 0))
    alone = next(row for row in whole.rows if (row.label, row.seed) == ("LLM-Pruner-E2", 1))
    assert {"python_topics_ppl", "python_docstrings_ppl"} <= shared.stages.keys()
    assert "python_docstrings_ppl" not in alone.stages
    assert [one.key for one in whole.columns][:2] == ["python_topics_ppl", "python_docstrings_ppl"]
    assert [model.name for model in whole.resolved.models] == ["tiny", "tiny, sizes"]
    assert [[whole.rows[place].label for place in part.rows] for part in whole.parts] == [
        ["Tiny", "Magnitude", "Magnitude", "LLM-Pruner-E2", "LLM-Pruner-E2"],
        ["Tiny", "LLM-Pruner-E2"],
        ["Tiny", "any"],
    ]


def test_specs_share_their_stages(folder):
    whole = expand_all(load(folder / "all.yaml"))
    single = [expand_all(load(folder / f"{name}.yaml")) for name in ("table", "figure", "sizes")]
    keys = {stage.key for stage in whole.stages}
    assert len(whole.stages) == len(keys)
    assert {stage.key for one in single[::2] for stage in one.stages} <= keys  # the figure's text is set otherwise


def test_rows_that_only_seem_the_same_are_refused(folder):
    (folder / "figure.yaml").write_text(FIGURE.replace("samples: 2", "samples: 3"))
    with pytest.raises(SpecError, match=r"figure.yaml:1: name: the row 'LLM-Pruner-E2' of tiny.*plan.*another label"):
        expand_all(load(folder / "all.yaml"))


def test_a_document_from_the_command_to_its_report(folder, capsys):
    assert main(["run", "all.yaml", "--device", "cpu"]) == 0
    results = Results.model_validate_json(Path("out/all/results.json").read_text())
    assert [part.spec["name"] for part in results.parts] == ["table", "figure", "sizes"]
    assert results.spec["name"] == "all" and results.paper is None
    table = results.of_part(results.parts[0])
    assert {column.key for column in table.columns} == {"python_topics_ppl"} and len(table.rows) == 5
    other = next(model for model in results.models if model.name == "tiny, sizes")
    assert (other.dtype, other.stands_for) == ("float64", "tiny")
    reached = [row.reached for row in results.rows if row.label == "Magnitude"]
    assert all(one.layers == [1, 2, 3, 4] and one.of == 6 and 0.2 < one.channels < 0.5 for one in reached)
    assert results.parts[0].paper is not None and results.parts[2].paper is None
    text = Path("out/all/report.md").read_text()
    assert text.startswith("# Everything") and "Table 1" in text
    again = render(results, folder / "again")
    for path in again:
        if path.suffix in (".md", ".tex", ".json", ".html"):
            assert path.read_bytes() == (folder / "out" / "all" / path.relative_to(folder / "again")).read_bytes()
    capsys.readouterr()
    assert main(["run", "all.yaml", "--device", "cpu", "--dry-run"]) == 0
    assert ", 0 to run" in capsys.readouterr().out
    for name in ("table", "sizes"):  # they share the document's store
        assert main(["status", f"{name}.yaml"]) == 0
    assert main(["clean", "all.yaml"]) == 0 and "0 items" in capsys.readouterr().out


def test_the_whole_paper_expands():
    whole = expand_all(load(SPECS / "paper.yaml", ["small"]))
    items = [part.expansions[0].spec.reproduces for part in whole.parts]
    tables = [f"{kind}{number}" for item in items if item for kind, number in item.items()]
    assert tables == [*(f"table{n}" for n in (1, 2, 3, 4, 6, 7, 8, 9, 10)), "figure1", "figure4"]
    seeds = {}
    for row in whole.rows:
        if row.method == "adapruner" and row.label == "AdaPruner" and row.control is None:
            seeds.setdefault((row.model, row.ratio, row.recovery), set()).add(row.seed)
    assert seeds and all(len(of) == (5 if recovery == "none" else 3) for (_, _, recovery), of in seeds.items())
    searches = {row.stages["search"].key for row in whole.rows if row.label == "AdaPruner" and "search" in row.stages}
    assert len(searches) == 5  # one a seed, for all tables


def test_specs_are_listed_with_what_the_store_has_of_them(folder, capsys):
    assert main(["run", "figure.yaml", "--device", "cpu", "--set", "evaluate.perplexity=python-docstrings"]) == 0
    done = sum(kind["done"] for kind in json.loads(Path("out/figure/results.json").read_text())["stages"])
    capsys.readouterr()
    assert main(["specs", "."]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if ".yaml" in line}
    stages = expand_all(load(folder / "all.yaml")).stages
    assert lines["all.yaml"][1:6] == ["3", "specs", "7", str(len(stages)), str(done)]
    assert lines["table.yaml"][1:4] == ["Table", "1", "3"]
