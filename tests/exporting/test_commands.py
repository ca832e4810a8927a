"""`reproduce export` and `reproduce prune` as a user meets them, on a tiny model."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

from reproducer import commands
from reproducer.cli import main
from reproducer.data.instructions import instruction_source
from reproducer.data.sizes import instruction_size
from reproducer.data.text import load_text
from reproducer.errors import UserError
from reproducer.exporting import recipe
from reproducer.exporting.before_after import Comparison
from reproducer.models.catalogue import CATALOGUE
from reproducer.models.load import load_model
from reproducer.models.random_weights import write_random
from reproducer.pruning.plan import Plan
from reproducer.queue import Store
from reproducer.recovery.registry import RECOVERIES
from reproducer.spec import load_spec
from reproducer.stages.expand import expand
from reproducer.stages.results import Column, Row
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
    monkeypatch.setattr(recipe, "SPEED", {"prefill": 8, "decode": 2, "repeats": 1, "warmup": 0})
    monkeypatch.setattr(recipe, "WRITTEN", 2)
    for left in ("small", "other"):
        shutil.rmtree(left, ignore_errors=True)
    return ran


def ours(row_label, recovery):
    """The row's model as its stages make it, without the export."""
    expansion, store = expand(load_spec("spec.yaml")), Store("store")
    row = next(one for one in expansion.rows if one.label == row_label and one.recovery == recovery)
    found = {role: store.read(row.stages[role]) for role in ("model", "plan", "recovery") if role in row.stages}
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
    assert "Quiz, accuracy in %" in card


def test_lm_eval_scores_the_folder_as_the_row_was(here):
    """lm-eval's own model on the folder, the task and the items of the run."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from reproducer.data.tasks import resolve_task
    from reproducer.evaluation.harness import TaskOnRows

    assert main(["export", "spec.yaml", "--row", "FLAP*", "--recovery", "none", "small"]) == 0
    quiz = TaskOnRows(resolve_task("quiz"), resolve_task("quiz").rows(), 8)
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


def compared(dense, pruned):
    """Two rows with a perplexity and an accuracy each; a quarter of the items is right by chance."""
    kinds = {"text_ppl": ("Text", "perplexity"), "task_acc": ("Task", "accuracy")}
    columns = [
        Column(key=key, label=label, kind=kind, higher_is_better=kind == "accuracy")
        for key, (label, kind) in kinds.items()
    ]
    rows = [
        Row(model="m", method="m", label="M", metrics=dict(zip(kinds, values, strict=True)))
        for values in (dense, pruned)
    ]
    results = SimpleNamespace(columns=columns, tasks=[SimpleNamespace(label="Task", majority=0.25)])
    return Comparison(results, *rows, (100, 80))


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
    """Calibrated on two texts, measured on parts that are kept back and on a third; its spec runs it again."""
    assert main(["prune", "tiny-gqa", "other", "--ratio", "0.3", "--samples", "8"]) == 0
    said = capsys.readouterr().out
    numbers = re.search(r"parameters before, ([\d,]+) now", said)
    assert numbers is not None, said
    table = said.partition("before    after")[2]
    for line in (
        r"parameters +349,184 +2\d\d,\d\d\d +70%",
        r"file size, MB +[\d.]+ +[\d.]+ +70%",
        r"perplexity of Python topics \(kept back from the calibration\) +[\d.]+ +[\d.]+ +[\d.]+ times",
        r"perplexity of Python packages +[\d.]+ +[\d.]+ +[\d.]+ times",
        r"tokens read a second +[\d,.]+ +[\d,.]+ +\d+%",
        r"tokens written a second +[\d,.]+ +[\d,.]+ +\d+%",
        r"after the words +it wrote before +and writes now",
        r"The capital of France",
    ):
        assert re.search(line, table), said
    again = AutoModelForCausalLM.from_pretrained("other")
    left = sum(parameter.numel() for parameter in again.parameters())
    assert f"{left:,}" == numbers[1] and left / 349184 == pytest.approx(0.7, abs=0.005)
    assert main(["other/prune.yaml"]) == 0
    assert re.search(r"from (\d+) stages \(\1 cached\)", capsys.readouterr().out)
    assert main(["export", "other/prune.yaml", "--row", "LLM-Pruner-E2", "small"]) == 0
    assert Path("small/model.safetensors").read_bytes() == Path("other/model.safetensors").read_bytes()


def test_prune_with_another_method_and_tuning(here, tmp_path, monkeypatch):
    """What is exported is tuned."""
    rows = [{"instruction": f"Say {n}", "input": "", "output": f"{n}"} for n in range(64)]
    mirror = tmp_path / "tatsu-lab/alpaca/default"
    mirror.mkdir(parents=True)
    (mirror / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("REPRODUCER_MIRROR", str(tmp_path))
    monkeypatch.setattr(recipe, "TUNING", {"batch": 4, "steps": 2, "warmup_steps": 1, "learning_rate": 0.05})
    options = ["--method", "flap", "--calibration", "python-packages", "--samples", "8", "--recover", "lora"]
    options += ["--evaluate", "python-topics", "quiz"]
    assert main(["prune", "tiny-gqa", "other", *options]) == 0
    spec = load_spec("other/prune.yaml")
    assert spec.evaluate["perplexity"] == ["python-topics"]
    expansion = expand(spec)
    assert [row.recovery for row in expansion.rows] == ["none", "lora"]
    assert [column.key for column in expansion.columns] == ["python_topics_ppl", "quiz_acc", "quiz_margin"]
    untuned = expansion.rows[1].stages["plan"]
    model, _ = load_model(Store("store").read(untuned.model).directory, "float32")
    Plan.load(Store("store").read(untuned).directory / "plan.safetensors").apply_(model)
    assert not torch.allclose(logits(AutoModelForCausalLM.from_pretrained("other"), IDS), logits(model, IDS), atol=1e-3)


def test_uniform_is_plain(here):
    """Whole blocks of channels, the same in each layer, in the family's own configuration."""
    assert main(["prune", "tiny", "other", "--uniform", "--ratio", "0.3", "--samples", "4"]) == 0
    config = json.loads(Path("other/config.json").read_text())
    assert config["model_type"] == "llama" and config["intermediate_size"] == 64 and "auto_map" not in config


def test_a_recovery_gets_what_it_has():
    """Of the recipe's settings and of those that are asked for; what no kind has is refused."""
    repair, lora = recipe.recoveries(["least-squares", "lora"], ["ptb"], 200, "mine.jsonl")
    assert (lora["steps"], lora["dataset"], lora["warmup_steps"], lora["batch"]) == (200, "mine.jsonl", 20, 16)
    assert repair == {"name": "least-squares", "texts": ["ptb"], "samples": 128}
    with pytest.raises(UserError, match="has no steps"):
        recipe.recoveries(["least-squares"], ["ptb"], 200, None)


def test_a_collapse_is_told_with_what_would_be_better():
    """A perplexity, and an accuracy that has come near chance; 8 bits where they are better."""
    quiet, loud = (compared(*values) for values in (((20.0, 0.6), (20.1, 0.6)), ((20.0, 0.6), (31.0, 0.3))))
    assert quiet.collapsed() == [] and quiet.advice(["again"], ["bits"]) == ""
    assert loud.collapsed() == ["perplexity of Text is 1.55 times what it was", "accuracy in Task fell from 60% to 30%"]
    told = loud.advice(["reproduce", "prune", "a b"], ["bits"])
    assert told.startswith("WARNING") and "reproduce prune 'a b'" in told and "53% of the size" in told


def test_the_command_of_a_card_runs_from_anywhere(here, tmp_path, monkeypatch, capsys):
    """Also from the folder itself: paths are absolute, whatever lies there by the same name."""
    (here / "base").mkdir(exist_ok=True)
    write_random(CATALOGUE["tiny-gqa"].config, 3, here / "base")
    rows = [json.dumps({"text": f"{n} ships went to sea with {n + 2} people on board. " * 3}) for n in range(40)]
    for name in ("mine.jsonl", "other.jsonl"):
        (here / name).write_text("\n".join(rows))
    options = ["--calibration", "mine.jsonl?join=\\n", "--evaluate", "other.jsonl", "quiz", "--samples", "8"]
    assert main(["prune", "base", "other", *options]) == 0
    assert f"calibrated on {here / 'mine.jsonl'}" not in capsys.readouterr().err
    spec = load_spec("other/prune.yaml")
    assert spec.models[0].name == str(here / "base") and spec.calibration.dataset == [f"{here / 'mine.jsonl'}?join=\\n"]
    assert spec.evaluate["perplexity"] == [str(here / "other.jsonl")] and spec.evaluate["tasks"] == ["quiz"]
    command = re.search(r"Spec: prune; `(reproduce \S+)`", Path("other/README.md").read_text())[1]
    assert command == f"reproduce {here / 'other/prune.yaml'}"
    for place in (tmp_path, here / "other"):
        monkeypatch.chdir(place)
        out = ["--out", str(tmp_path / "out"), "--store", str(here / "store")]
        assert main([*command.split()[1:], *out]) == 0
        assert re.search(r"\(\d+ cached\)", capsys.readouterr().out)


def pruned_of(model_type):
    """What a folder's model, of this type and with two tokens that swallow spaces, is refused with before the work."""
    folder = Path(model_type)
    folder.mkdir(exist_ok=True)
    write_random({**CATALOGUE["tiny-gqa"].config, "model_type": model_type}, 3, folder)
    (folder / "generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2}')
    return folder


REHEARSED = {
    "a type": ("qwen3", None, "it is of type 'qwen3'; written are"),
    "a tokenizer": ("llama", "lstrip", "the token '<tool>' is set to lstrip"),
}


@pytest.mark.parametrize("name", REHEARSED)
def test_what_cannot_be_written_is_told_before_the_work(here, name, monkeypatch, capsys):
    model_type, swallows, message = REHEARSED[name]
    folder = pruned_of(model_type)
    if swallows:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens([AddedToken("<tool>", lstrip=True)])
        tokenizer.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 260}))
    monkeypatch.setattr(commands, "run_stages", lambda *_: pytest.fail("it ran"))
    assert main(["prune", str(folder), "other", "--format", "gguf"]) == 2
    assert message in capsys.readouterr().err and not Path("other").exists()


def test_generation_settings_that_transformers_does_not_write_are_mended(here):
    folder = pruned_of("llama")
    assert main(["prune", str(folder), "other", "--samples", "4"]) == 0
    written = json.loads(Path("other/generation_config.json").read_text())
    assert (written["temperature"], written["top_p"], written["do_sample"]) == (0.9, 0.6, True)


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
    "steps of no training": (
        ["tiny-gqa", "other", "--recover", "least-squares", "--recover-steps", "5"],
        "has no steps",
    ),
    "a file in the way": (["tiny-gqa", "spec.yaml"], "spec.yaml is not a folder"),
}


@pytest.mark.parametrize("arguments,message", MISUSES.values(), ids=MISUSES.keys())
def test_a_misuse_of_prune_is_told_before_anything_runs(here, arguments, message, capsys):
    assert main(["prune", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("other").exists()


def test_a_tenth_of_a_file_is_kept_back_from_its_calibration(tmp_path):
    """And of what it is to be recovered on; a short file is calibrated on whole."""
    mine, short = tmp_path / "mine.jsonl", tmp_path / "short.txt"
    mine.write_text("\n".join(json.dumps({"text": f"Row {n}: {'words ' * 200}"}) for n in range(50)))
    short.write_text("A few words.\n")
    spec = recipe.settings("tiny-gqa", calibration=[str(mine), str(short)], recover=["least-squares"])
    seen, kept = f"{mine}?rows=0-90%", f"{mine}?rows=90-100%"
    assert spec["calibration"]["dataset"] == spec["recovery"][0][0]["texts"] == [seen, str(short)]
    assert spec["evaluate"]["perplexity"] == [kept, "python-packages"]
    assert len(load_text(seen, "calibration").passages) == 45
    rows = [text.partition(":")[0] for text in load_text(kept, "report").passages]
    assert rows == [f"Row {n}" for n in range(45, 50)]
    assert expand(recipe.spec_of(spec)).rows[-1].recovery == "least-squares"


def test_a_recoverys_time_is_of_the_rows_that_are_there(tmp_path, monkeypatch):
    mirror = tmp_path / "tatsu-lab/alpaca/default"
    mirror.mkdir(parents=True)
    (mirror / "train.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n' * 30)
    monkeypatch.setenv("REPRODUCER_MIRROR", str(tmp_path))
    source = instruction_source("alpaca").identity()
    assert instruction_size("alpaca", source)[0] == 30
    monkeypatch.delenv("REPRODUCER_MIRROR")
    assert instruction_size("alpaca", source)[0] == 52_002
