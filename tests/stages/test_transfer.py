"""Configurations carried over to another model or ratio, and the models that are made for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from reproducer import prune
from reproducer.cli import main
from reproducer.data.pool import cut_samples
from reproducer.data.text import load_text
from reproducer.models.load import load_model
from reproducer.pruning.plan import Plan
from reproducer.recovery.lora import Lora
from reproducer.search.record import Record
from reproducer.spec import load_spec
from reproducer.stages.expand import expand
from reproducer.stages.results import Results

SPECS = Path(__file__).parents[2] / "specs"

SPEC = """\
name: transfer
models:
  - name: sibling
    base: tiny
    tuned: {name: lora, dataset: builtin-instructions, batch: 4, steps: 2, warmup_steps: 0}
methods:
  - {name: adapruner, search: {transfer: {model: tiny, ratio: 0.20}}}
prune: {ratio: 0.30, layers: [1, 5]}
calibration: {dataset: python-topics, samples: 3, length: 32, pool: 40}
search: {trials: 5, windows: 4}
evaluate: {perplexity: [python-topics], seq_len: 32, windows: 4}
"""


def rows_of(name, profile):
    rows = expand(load_spec(SPECS / f"{name}.yaml", [profile])).rows
    return {row.label: row.stages for row in rows if row.seed == 0}


def test_one_search_serves_every_table():
    search = rows_of("table1", "small")["AdaPruner"]["search"].key
    assert rows_of("table2", "small")["AdaPruner"]["search"].key == search
    for table in ("table3", "table7", "figure5", "transfer"):
        stages = rows_of(table, "small")["AdaPruner"]
        assert stages["transfer"].key == search and "search" not in stages


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    (folder / "x.yaml").write_text(SPEC)
    assert main([str(folder / "x.yaml"), "--store", str(folder / "store"), "--out", str(folder / "out")]) == 0
    (row,) = (row for row in expand(load_spec(folder / "x.yaml")).rows if row.method == "adapruner")
    return {role: folder / "store" / stage.kind / stage.key for role, stage in row.stages.items()} | {"folder": folder}


def test_the_metric_and_the_samples_of_the_source_prune_the_target(ran):
    best = Record.read(ran["transfer"]).best
    model, tokenizer = load_model(ran["model"], "float32", "cpu")
    passages = [sample.text for sample in best.samples]
    known = load_text("python-topics", "calibration").passages
    assert len(passages) == 3 and all(passage in known for passage in passages)
    ids = cut_samples(passages, tokenizer, 32)
    again = prune(model, best.method, ids, ratio=0.30, layers=range(1, 5), seed=0, **best.params)
    plan = Plan.load(ran["plan"] / "plan.safetensors")
    assert plan.kept_heads == again.kept_heads and plan.kept_channels == again.kept_channels
    source = Plan.load(ran["transfer"] / "plan.safetensors")
    assert plan.parameters_removed(model) > 1.3 * source.parameters_removed(model)


def test_a_derived_model_is_its_base_with_the_adapter(ran):
    (row,) = (row for row in expand(load_spec(ran["folder"] / "x.yaml")).rows if row.method == "dense")
    inputs = {name: ran["folder"] / "store" / s.kind / s.key for name, s in row.stages["model"].inputs.items()}
    base, _ = load_model(inputs["model"], "float32", "cpu")
    derived, _ = load_model(ran["model"], "float32", "cpu")
    ids = torch.randint(0, 250, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain, merged, adapted = (
            base(ids).logits,
            derived(ids).logits,
            Lora().apply(base, inputs["recovery"])(ids).logits,
        )
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)
    assert (merged - plain).abs().max() > 1e-3
    results = json.loads((ran["folder"] / "out" / "transfer" / "results.json").read_text())
    assert {row["model"] for row in results["rows"]} == {"sibling"}


ELSEWHERE = """\
name: elsewhere
models: [tiny-opt]
methods: [vector, {name: adapruner, search: {transfer: {model: tiny}}}]
prune: {ratio: 0.20, layers: [1, 5]}
calibration: {dataset: python-topics, samples: 2, length: 32, pool: 20}
search: {mode: paper, trials: 3, windows: 2, baselines: [vector]}
evaluate: {perplexity: [python-topics], seq_len: 32, windows: 2}
"""


def test_what_was_found_on_a_llama_prunes_another_architecture(tmp_path):
    (tmp_path / "x.yaml").write_text(ELSEWHERE)
    command = [str(tmp_path / "x.yaml"), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    results = Results.model_validate_json((tmp_path / "out" / "elsewhere" / "results.json").read_bytes())
    (row,) = (row for row in results.rows if row.method == "adapruner")
    stages = {one.key: one for one in expand(load_spec(tmp_path / "x.yaml")).stages}
    plan = Plan.load(tmp_path / "store" / "prune-found" / row.stages["plan"] / "plan.safetensors")
    assert stages[row.stages["transfer"]].model.key != row.stages["model"] and len(plan.units) == 6
    assert results.models[0].architecture == "opt" and 0.19 < row.params_removed < 0.21
    assert row.deciding_seconds is not None and row.recovery_seconds is None
