"""`reproduce export` and `reproduce prune` as a user meets them, on a tiny model."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from reproducer.cli import main
from reproducer.exporting import recipe
from reproducer.models.load import load_model
from reproducer.pruning.plan import Plan
from reproducer.queue import Store
from reproducer.recovery.registry import RECOVERIES
from reproducer.spec import load_spec
from reproducer.stages.expand import expand
from tests.helpers import logits, tokens

SPEC = """\
name: exported
models: [tiny-gqa]
methods:
  - magnitude
  - {name: flap, label: "FLAP*"}
  - {name: my_crash:crashes, label: Crashes}
prune: {ratio: 0.20, layers: [1, 5]}
calibration: {dataset: python-topics, samples: 3, length: 32, pool: 40}
recovery:
  - none
  - {name: lora, batch: 4, steps: 2, warmup_steps: 1, learning_rate: 5.0e-2, dataset: builtin-instructions}
evaluate: {perplexity: [python-topics], tasks: [quiz], seq_len: 32, windows: 4, limit: 8}
"""
CRASHES = """\
from reproducer.methods.registry import Rule, register

@register("crashes", label="Crashes", source="an example", calibrated=False)
def crashes() -> Rule:
    from reproducer.pruning.statistics import Power
    return Rule((Power(2),), lambda vectors, _: vectors[Power(2)] / (1 // 0))
"""
IDS = tokens(2, 20, vocab=259)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder with a spec and the store of its run, of which one method failed."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "spec.yaml").write_text(SPEC)
    (folder / "my_crash.py").write_text(CRASHES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["spec.yaml"]) == 1
    return folder


@pytest.fixture
def here(ran, monkeypatch):
    monkeypatch.chdir(ran)
    monkeypatch.setattr(recipe, "WINDOWS", 8)
    for left in ("small", "other"):
        shutil.rmtree(left, ignore_errors=True)
    return ran


def ours(row_label, recovery):
    """The row's model as its stages make it, without the export."""
    expansion, store = expand(load_spec("spec.yaml")), Store("store")
    row = next(one for one in expansion.rows if one.label == row_label and one.recovery == recovery)
    found = {role: store.artifact(row.stages[role]) for role in ("model", "plan", "recovery") if role in row.stages}
    model, _ = load_model(found["model"].directory, "float32")
    Plan.load(found["plan"].directory / "plan.safetensors").apply_(model)
    if recovery == "lora":
        kind = RECOVERIES.get("lora")()
        model = kind.apply(model, found["recovery"].directory)
    return model.eval()


@pytest.mark.parametrize("label,recovery", [("Magnitude", "none"), ("FLAP*", "none"), ("FLAP*", "lora")])
def test_a_row_becomes_a_folder(here, label, recovery, capsys):
    assert main(["export", "spec.yaml", "--row", label, "--recovery", recovery, "small"]) == 0
    assert "349,184 parameters before" in capsys.readouterr().out
    again = AutoModelForCausalLM.from_pretrained("small")
    assert torch.allclose(logits(again, IDS), logits(ours(label, recovery), IDS), rtol=1e-5, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained("small")
    assert tokenizer.decode(tokenizer("héllo")["input_ids"]) == "héllo" and tokenizer.pad_token == "<pad>"
    assert sorted(path.name for path in here.iterdir() if path.name.startswith(".")) == []
    row = next(
        row
        for row in json.loads(Path("out/exported/results.json").read_text())["rows"]
        if (row["label"], row["recovery"]) == (label, recovery)
    )
    card = Path("small/README.md").read_text()
    assert f"{row['metrics']['python_topics_ppl']:.2f}" in card
    assert row["stages"]["plan"] in card and "Python topics, perplexity" in card
    # the quiz's interval, of eight items
    assert "Quiz, accuracy in %" in card


def test_lm_eval_scores_the_folder_as_the_row_was(here):
    """lm-eval's own model on the folder, the task and the items of the run."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from reproducer.data.tasks import resolve_task
    from reproducer.evaluation.harness import TaskOnRows

    assert main(["export", "spec.yaml", "--row", "FLAP*", "--recovery", "none", "small"]) == 0
    quiz = TaskOnRows("quiz", resolve_task("quiz").rows(), 8)
    read = HFLM(pretrained="small", device="cpu", batch_size=1, dtype="float32")
    samples = evaluate(read, {"tasks": {"quiz": quiz}}, bootstrap_iters=0)["samples"]["quiz"]
    rows = json.loads(Path("out/exported/results.json").read_text())["rows"]
    row = next(row for row in rows if (row["label"], row["recovery"]) == ("FLAP*", "none"))
    assert len(samples) == 8
    found = [sample["acc"] for sample in sorted(samples, key=lambda one: one["doc_id"])]
    assert found == [item["scores"]["acc"] for item in row["measured"]["quiz_acc"]["items"]]


def test_a_row_becomes_a_gguf_file(here):
    from gguf import GGUFReader

    options = ["--row", "FLAP*", "--recovery", "none", "--format", "gguf", "--quantize", "q8_0"]
    assert main(["export", "spec.yaml", *options, "small"]) == 0
    assert sorted(path.name for path in Path("small").iterdir()) == ["README.md", "model-q8_0.gguf"]
    read = GGUFReader("small/model-q8_0.gguf")
    assert read.fields["general.architecture"].contents() == "deci"
    assert "Q8_0" in {tensor.tensor_type.name for tensor in read.tensors}
    card = Path("small/README.md").read_text()
    assert "llama-cli -m model-q8_0.gguf" in card and "library_name: llama.cpp" in card
    assert "from_pretrained" not in card


MISTAKES = {
    "another label": (["--row", "Magnitud"], "exported has no row 'Magnitud'\ndid you mean 'Magnitude'?"),
    "several": (
        ["--row", "Magnitude"],
        "2 rows of exported are called 'Magnitude'\nchoose one with --model, --ratio, --recovery or --seed:\n"
        "  tiny-gqa, Magnitude, 20%, w/o tune, seed 0\n  tiny-gqa, Magnitude, 20%, w/ LoRA, seed 0",
    ),
    "another ratio": (
        ["--row", "Magnitude", "--ratio", "0.3"],
        "no row 'Magnitude' of exported is like that\nthere are:\n  tiny-gqa, Magnitude, 20%, w/o tune, seed 0",
    ),
    "a failed row": (["--row", "Crashes", "--recovery", "none"], "w/o tune, seed 0' failed: ZeroDivisionError"),
    "a row that is not there": (
        ["--row", "Magnitude", "--recovery", "none", "--set", "seeds=[7]", "--set", "prune.ratio=0.1"],
        "the row 'tiny-gqa, Magnitude, 10%, w/o tune, seed 7' is not in the store\nrows that are:\n  tiny-gqa,",
    ),
    "an unknown type": (
        ["--row", "Magnitude", "--recovery", "none", "--format", "gguf", "--quantize", "q8"],
        "'q8' is no type of GGUF files that is written here\ndid you mean 'q8_0'?",
    ),
    "a type of another format": (
        ["--row", "Magnitude", "--recovery", "none", "--quantize", "q8_0"],
        "the format hf does not quantise weights",
    ),
    "no name of a repository": (
        ["--row", "Magnitude", "--recovery", "none", "--push", "a/b/c"],
        "--push a/b/c: Repo id must be",
    ),
}


@pytest.mark.parametrize("options,message", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_and_leaves_nothing(here, options, message, capsys):
    assert main(["export", "spec.yaml", *options, "small"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("small").exists()


class FakeHub:
    """As much of the hub's client as is used."""

    calls: list

    def __init__(self, **options):
        pass

    def create_repo(self, repo_id, exist_ok):
        if repo_id == "refused":
            raise PermissionError("401 Unauthorized")
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append((repo_id, {path.name for path in Path(folder_path).iterdir()}))


def test_a_folder_is_pushed_and_stays_where_that_fails(here, monkeypatch, capsys):
    FakeHub.calls = []
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    options = ["export", "spec.yaml", "--row", "FLAP*", "--recovery", "none"]
    assert main([*options, "small", "--push", "tiny-flap"]) == 0
    ((name, files),) = FakeHub.calls
    assert name == "me/tiny-flap"
    assert {"README.md", "config.json", "model.safetensors", "modeling_pruned.py"} <= files
    assert 'from_pretrained("tiny-flap", trust_remote_code=True)' in Path("small/README.md").read_text()
    assert main([*options, "other", "--push", "refused"]) == 2
    error = capsys.readouterr().err
    assert "cannot be pushed to refused: 401 Unauthorized" in error and "hf auth login" in error
    assert AutoModelForCausalLM.from_pretrained("other") is not None


def test_prune_in_one_step(here, capsys):
    """Calibrated on two texts, measured on a third, and run again from the spec beside the model."""
    assert main(["prune", "tiny-gqa", "other", "--ratio", "0.3", "--samples", "8"]) == 0
    said = capsys.readouterr().out
    numbers = re.search(r"parameters before, ([\d,]+) now; perplexity of Python packages ([\d.]+) before", said)
    assert numbers is not None, said
    again = AutoModelForCausalLM.from_pretrained("other")
    left = sum(parameter.numel() for parameter in again.parameters())
    assert f"{left:,}" == numbers[1] and left / 349184 == pytest.approx(0.7, abs=0.005)
    assert main(["other/prune.yaml"]) == 0
    assert "4 cached" in capsys.readouterr().out
    assert main(["export", "other/prune.yaml", "--row", "LLM-Pruner-E2", "small"]) == 0
    assert Path("small/model.safetensors").read_bytes() == Path("other/model.safetensors").read_bytes()


def test_prune_with_another_method_and_tuning(here, tmp_path, monkeypatch):
    """A method that decides by itself is not asked for steps; what is exported is tuned."""
    rows = [{"instruction": f"Say {n}", "input": "", "output": f"{n}"} for n in range(64)]
    mirror = tmp_path / "tatsu-lab/alpaca/default"
    mirror.mkdir(parents=True)
    (mirror / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("REPRODUCER_MIRROR", str(tmp_path))
    monkeypatch.setattr(recipe, "TUNING", {"batch": 4, "steps": 2, "warmup_steps": 1, "learning_rate": 0.05})
    options = ["--method", "flap", "--calibration", "python-packages", "--samples", "8", "--recover"]
    assert main(["prune", "tiny-gqa", "other", *options]) == 0
    spec = load_spec("other/prune.yaml")
    assert spec.prune.steps == 1 and spec.evaluate["perplexity"] == ["python-topics"]
    expansion = expand(spec)
    assert [row.recovery for row in expansion.rows] == ["none", "none", "lora"]
    untuned = expansion.rows[1].stages["plan"]
    model, _ = load_model(Store("store").artifact(untuned.model).directory, "float32")
    Plan.load(Store("store").artifact(untuned).directory / "plan.safetensors").apply_(model)
    assert not torch.allclose(logits(AutoModelForCausalLM.from_pretrained("other"), IDS), logits(model, IDS), atol=1e-3)


def test_a_base_that_has_changed_since_is_refused(here, tmp_path, capsys):
    """A folder stays where it is; the plan knows the weights that it was made for."""
    base = tmp_path / "base"
    assert main(["export", "spec.yaml", "--row", "Magnitude", "--recovery", "none", str(base)]) == 0
    assert main(["prune", str(base), "other", "--method", "magnitude"]) == 0
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.mul_(2)
    model.save_pretrained(base)
    capsys.readouterr()
    assert main(["export", "other/prune.yaml", "--row", "Magnitude", "small"]) == 2
    assert "the plan was made for another model" in capsys.readouterr().err
    assert not Path("small").exists()


MISUSES = {
    "no model": (["nothing-such", "other"], "unknown model 'nothing-such'"),
    "nothing to remove": (["tiny-gqa", "other", "--ratio", "0"], "0 removes nothing"),
    "too much": (["tiny-gqa", "other", "--ratio", "0.99"], "cannot be reached"),
    "all texts": (["tiny-gqa", "other", "--calibration", *recipe.MEASURED], "nothing is left to measure"),
    "a file in the way": (["tiny-gqa", "spec.yaml"], "spec.yaml is not a folder"),
}


@pytest.mark.parametrize("arguments,message", MISUSES.values(), ids=MISUSES.keys())
def test_a_misuse_of_prune_is_told_before_anything_runs(here, arguments, message, capsys):
    assert main(["prune", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("other").exists()
