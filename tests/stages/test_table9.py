"""Table 9 from the spec to the report: sizes, times and memory of models with random weights."""

import json
from pathlib import Path

import pytest

from reproducer.cli import main
from reproducer.queue import Store, survey
from reproducer.spec import SpecError, load_spec
from reproducer.stages import base
from reproducer.stages.expand import expand

TABLE9 = Path(__file__).parents[2] / "specs" / "table9.yaml"
KEYS = {"params_billion", "macs_giga", "memory_mib", "latency_seconds", "tokens_per_second"}
SPEC = """\
name: sizes
models:
  - {name: llama-7b, weights: random}
methods: [magnitude]
evaluate:
  perplexity: []
  efficiency: {length: 32, repeats: 2, warmup: 0}
"""


def load(tmp_path, text=SPEC, *overrides):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    return load_spec(path, (), overrides)


def test_table_9_on_the_tiny_profile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = [str(TABLE9), "--profile", "tiny", "--set", "evaluate.efficiency.repeats=3", "--device", "cpu"]
    assert main(run) == 0
    results = json.loads(Path("out/table9/results.json").read_text())
    assert {metric["key"]: metric["higher_is_better"] for metric in results["columns"]} == {
        key: key == "tokens_per_second" for key in KEYS
    }
    dense, protocol, any_width, rounded = results["rows"]
    assert all(row["status"] == "done" and row["metrics"].keys() == KEYS for row in results["rows"])
    for row in results["rows"]:
        assert row["metrics"]["params_billion"] == row["params"] / 1e9
        assert row["metrics"]["memory_mib"] > 4 * row["params"] / 2**20
        assert row["metrics"]["tokens_per_second"] == pytest.approx(64 / row["metrics"]["latency_seconds"])
    for key in ("params_billion", "macs_giga", "memory_mib"):
        assert protocol["metrics"][key] < dense["metrics"][key]
    assert rounded["metrics"]["params_billion"] != any_width["metrics"]["params_billion"]

    report = "".join(Path(f"out/table9/{name}.md").read_text() for name in ("report", "appendix"))
    assert "Calibration" not in report and "Perplexity" not in report
    cells = {row["label"]: row["cells"] for row in results["paper"]["rows"]}
    assert cells["Tiny"]["macs_giga"]["paper"] == 425.12
    assert cells["LLM-Pruner's protocol"]["latency_seconds"]["paper"] == 2.40
    own = {stage.key for stage in expand(load_spec(TABLE9, ["tiny"], run[4:5])).stages}
    assert {key for row in results["rows"] for key in row["stages"].values()} == own
    assert main(["check", *run, "--against", "out/table9/results.json"]) == 0


ROUNDED = "[magnitude, {name: magnitude, label: rounded, prune: {structure_ratio: 0.2, round_to: 64}}]"
SPEED = "speed: {prefill: 12, decode: 3, repeats: 4, warmup: 1}"
TIMED = SPEC.replace("llama-7b", "tiny").replace("[magnitude]", ROUNDED) + f"  {SPEED}\n"


def test_times_belong_to_the_plan_and_are_taken_again_on_another_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(TIMED)
    assert main(["spec.yaml", "--device", "cpu"]) == 0
    speeds = [row["measured"]["speed"] for row in json.loads(Path("out/sizes/results.json").read_text())["rows"]]
    assert all(len(one["prefill"]) == len(one["decode"]) == 4 and min(one["prefill"]) > 0 for one in speeds)
    assert [one["missed"] for one in speeds] == [6, 6, 0]  # layers of 160 channels or less, no multiple of 64
    assert "Reading and writing" in Path("out/sizes/report.md").read_text()
    tuned = [
        row.stages for row in expand(load(tmp_path, TIMED + "recovery: [none, lora]\n")).rows if row.label == "rounded"
    ]
    for role in ("speed", "efficiency"):
        assert tuned[0][role].key == tuned[1][role].key
    stages, store = expand(load(tmp_path, TIMED)).stages, Store(Path("store"))

    def statuses():
        outcome = survey(stages, store, "cpu")
        return {stage.kind: outcome[stage].status for stage in stages}

    assert set(statuses().values()) == {"cached"}
    monkeypatch.setattr(base, "describe_machine", lambda: {"cpu": "another", "cpu_count": 2})
    found = statuses()
    assert "cached" not in (found.pop("efficiency"), found.pop("speed")) and set(found.values()) == {"cached"}


def test_a_paper_sized_dry_run_writes_no_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(TABLE9), "--profile", "paper", "--dry-run", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "llama-7b (random)" in shown and "4 rows, 8 stages, 8 to run, about " in shown
    assert not list(tmp_path.iterdir())


def test_random_weights_are_another_model(tmp_path):
    random, given = (expand(load(tmp_path, SPEC.replace("random", weights))) for weights in ("random", "given"))
    assert {stage.key for stage in random.stages}.isdisjoint(stage.key for stage in given.stages)
    assert random.rows[0].label == "LLaMA-7B (random weights)" and given.rows[0].label == "LLaMA-7B"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("length: 32", "length: 2049", r"spec.yaml:7: evaluate.efficiency.length: 2049 tokens .* context of .*2048"),
        ("llama-7b", "someone/model", r"spec.yaml:3: models\[0\].weights: .*'someone/model' need its config.*llama-7b"),
        ("weights: random", "weights: randm", r"spec.yaml:3: models\[0\].weights: .*did you mean 'random'"),
        ("{length: 32, repeats: 2, warmup: 0}", "64", r"spec.yaml:7: evaluate.efficiency: .*mapping with keys"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path, old, new, message):
    assert old in SPEC
    with pytest.raises(SpecError, match=message):
        expand(load(tmp_path, SPEC.replace(old, new)))
