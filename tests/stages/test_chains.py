"""Several recoveries one after the other: an entry of a spec's `recovery` that is a list."""

import json
from pathlib import Path

import pytest
import torch

from reproducer.cli import main
from reproducer.models.load import load_model
from reproducer.spec import SpecError, load_spec
from reproducer.stages.base import apply_edits, named_edits
from reproducer.stages.expand import expand

LORA = (
    "name: lora, dataset: builtin-instructions, examples: 8, steps: 2, batch: 4, warmup_steps: 0, learning_rate: 0.01"
)
SPEC = f"""\
name: chained
models: [tiny]
methods: [magnitude, {{name: random, recovery: [[lora, groupwise]]}}]
prune: {{structure_ratio: 0.25, layers: [1, 5]}}
recovery: [none, {{{LORA}}}, [{{{LORA}}}, {{{LORA}}}], [{{{LORA}}}, {{{LORA.replace("lora", "groupwise")}}}]]
evaluate: {{perplexity: [python-topics], seq_len: 32, windows: 4}}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a run, in which every row has its chain."""
    folder = tmp_path_factory.mktemp("chained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("spec.yaml").write_text(SPEC)
        assert main(["spec.yaml"]) == 0
    return folder


def rows(folder: Path) -> dict[tuple[str, str], dict]:
    found = json.loads((folder / "out/chained/results.json").read_text())["rows"]
    return {(row["method"], row["recovery"]): row for row in found}


def test_each_chain_is_a_row_that_shares_the_stages_of_its_beginning(ran):
    found = rows(ran)
    kept = ["none", "lora", "lora + lora", "lora + groupwise"]
    assert [*found] == [("dense", "none"), *(("magnitude", name) for name in kept), ("random", "lora + groupwise")]
    once, twice, mixed = (found["magnitude", name]["stages"] for name in kept[1:])
    assert once["recovery"] == twice["recovery"] == mixed["recovery"] and "recovery-2" not in once
    assert twice["recovery-2"] != mixed["recovery-2"]
    assert found["magnitude", "lora + groupwise"]["recovery_label"] == "LoRA + Group-wise"
    assert len({row["metrics"]["python_topics_ppl"] for row in found.values()}) == len(found), "each is another model"
    report = (ran / "out/chained/report.md").read_text() + (ran / "out/chained/appendix.md").read_text()
    assert "w/ LoRA + Group-wise" in report and f"recovery-2 {twice['recovery-2'][:12]}" in report


def test_the_edits_of_a_chain_are_applied_in_order_and_exported(ran, monkeypatch):
    monkeypatch.chdir(ran)
    (row,) = (row for row in expand(load_spec("spec.yaml")).rows if row.recovery == "lora + lora")
    folders = {role: next(Path("store").glob(f"*/{stage.key}")) for role, stage in row.stages.items()}
    edits = row.state.edits
    names = [*named_edits(edits)]
    assert names == ["plan", "recovery", "recovery-2"]

    def edited(order: list[int]) -> torch.Tensor:
        """A matrix of the model after these of the edits."""
        model = load_model(folders["model"], "float32")[0]
        chosen = {
            name: folders[names[number]]
            for name, number in zip(named_edits([edits[i] for i in order]), order, strict=True)
        }
        return apply_edits(model, [edits[i] for i in order], chosen, merge=True).model.layers[2].self_attn.q_proj.weight

    cut, first, second, both = (edited(order) for order in ([0], [0, 1], [0, 2], [0, 1, 2]))
    torch.testing.assert_close(both - cut, (first - cut) + (second - cut), rtol=0, atol=1e-6)  # adapters add up
    assert main(["export", "spec.yaml", "--row", "Magnitude", "--recovery", "lora + lora", "out/folder"]) == 0
    exported = load_model(Path("out/folder"), "float32")[0]
    assert torch.equal(exported.model.layers[2].self_attn.q_proj.weight, both)


def test_a_chain_goes_on_behind_what_is_finished(ran, monkeypatch, capsys):
    monkeypatch.chdir(ran)
    before = rows(ran)
    lost = before["magnitude", "lora + lora"]["stages"]
    for role in ("recovery-2", "python_topics_ppl"):
        next(Path("store").glob(f"*/{lost[role]}")).rename(f"{role}.lost")
    assert main(["spec.yaml"]) == 0
    assert "2 done" in capsys.readouterr().out
    metrics = [{key: row["metrics"] for key, row in found.items()} for found in (before, rows(ran))]
    assert metrics[0] == metrics[1]


def test_a_profile_replaces_the_names_in_a_chain_each_on_its_own(tmp_path):
    (tmp_path / "spec.yaml").write_text(
        "name: own\nmodels: [tiny]\nmethods: [{name: magnitude, recovery: [[lora, groupwise]]}]\n"
        "recovery: [none, [{name: lora, dataset: alpaca}, {name: groupwise, batch: 4}]]\n"
    )
    (tmp_path / "profile.yaml").write_text(
        "map: {recovery: {lora: {name: lora, rank: 4}, groupwise: lora}, datasets: {alpaca: builtin-instructions}}"
    )
    spec = load_spec(tmp_path / "spec.yaml", [tmp_path / "profile.yaml"], ["recovery.1.1.steps=3"])
    assert [[(one.name, one.parameters) for one in chain] for chain in spec.recovery] == [
        [("none", {})],
        [("lora", {"dataset": "builtin-instructions", "rank": 4}), ("lora", {"batch": 4, "steps": 3})],
    ]
    assert spec.methods[0].recovery == ["lora + lora"]


@pytest.mark.parametrize(
    ("recovery", "told"),
    [
        ("[[lora, none]]", "spec.yaml:4: recovery[0]: 'none' is the absence of a recovery"),
        ("[[]]", "spec.yaml:4: recovery[0]: is empty"),
        ("[lora, [lora, lroa]]", "spec.yaml:4: recovery[1][1]: unknown recovery 'lroa'; did you mean 'lora'?"),
        ("[[lora, lora], [lora, lora]]", "spec.yaml:4: recovery[1]: 'lora + lora' is listed twice"),
        ("[[lora, {name: lora, ranks: 4}]]", "spec.yaml:4: recovery[0][1]: unknown key 'ranks'; did you mean 'rank'?"),
    ],
)
def test_a_mistake_in_a_chain_is_told_where_it_stands(tmp_path, recovery, told):
    (tmp_path / "spec.yaml").write_text(f"name: own\nmodels: [tiny]\nmethods: [magnitude]\nrecovery: {recovery}\n")
    with pytest.raises(SpecError) as caught:
        expand(load_spec(tmp_path / "spec.yaml"))
    assert told in str(caught.value)
