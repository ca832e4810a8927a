"""What is loaded from an exported folder can do what any model of transformers can."""

import json
import pickle
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import reproducer
from reproducer.cli import main
from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of
from reproducer.models.load import load_model
from reproducer.models.tokenizer import byte_tokenizer
from reproducer.pruning.plan import units_of
from tests.families import family_model
from tests.helpers import close, logits, tiny, tokens

IDS = tokens(4, 12)


@pytest.fixture(scope="module")
def dense():
    return tiny(layers=4, heads=6, groups=3, hidden=48, channels=40, tied=True)


@pytest.fixture(scope="module")
def plan(dense):
    """FLAP's: other widths in each layer, and biases."""
    return reproducer.prune(dense, "flap", IDS, ratio=0.25, layers=range(1, 4))


@pytest.fixture(scope="module")
def folder(dense, plan, tmp_path_factory):
    return reproducer.export(dense, plan, tmp_path_factory.mktemp("exported") / "small")


@pytest.fixture
def loaded(folder):
    """By this package's registration, without remote code."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def loss(model):
    found = model(IDS).logits[:, :-1]
    return cross_entropy(found.flatten(0, 1), IDS[:, 1:].flatten())


def test_it_loads_where_the_package_is_imported(loaded, dense, plan, folder):
    assert type(loaded).__name__ == "PrunedLlamaForCausalLM"
    assert torch.equal(logits(loaded, IDS), logits(plan.apply(dense), IDS))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    trusted = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert type(trusted) is type(loaded)


def test_it_is_pruned_again(loaded, dense, plan, tmp_path):
    """As the model in memory is, and the smaller one is exported like the first."""
    settings = {"ratio": 0.2, "layers": range(1, 4), "scope": "global"}
    second = reproducer.prune(loaded, "llm-pruner-e2", IDS, **settings)
    assert second == reproducer.prune(plan.apply(dense), "llm-pruner-e2", IDS, **settings)
    smaller = second.apply(loaded)
    again = AutoModelForCausalLM.from_pretrained(reproducer.export(loaded, second, tmp_path / "smaller"))
    assert torch.equal(logits(again, IDS), logits(smaller, IDS))
    architecture = architecture_of(again)
    assert units_of(again, architecture) == units_of(smaller, architecture)


def test_a_spec_may_name_it(dense, plan, tmp_path):
    folder = reproducer.export(dense, plan, tmp_path / "small", tokenizer=byte_tokenizer())
    model, tokenizer = load_model(folder)
    assert torch.equal(logits(model, IDS), logits(plan.apply(dense), IDS))
    assert tokenizer("ab")["input_ids"] == byte_tokenizer()("ab")["input_ids"]


def test_gradient_checkpointing_gives_the_same_gradients(loaded):
    loaded.train()
    loss(loaded).backward()
    expected = {name: parameter.grad.clone() for name, parameter in loaded.named_parameters()}
    loaded.zero_grad()
    loaded.gradient_checkpointing_enable()
    loss(loaded).backward()
    for name, parameter in loaded.named_parameters():
        assert close(parameter.grad, expected[name], 1e-5), name


def test_peft_trains_it_and_what_is_merged_is_saved(loaded, tmp_path):
    before = logits(loaded, IDS)
    adapted = get_peft_model(loaded, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimiser = torch.optim.SGD((p for p in adapted.parameters() if p.requires_grad), lr=0.5)
    for _ in range(2):
        optimiser.zero_grad()
        loss(adapted).backward()
        optimiser.step()
    merged = adapted.merge_and_unload().eval()
    assert not close(logits(merged, IDS), before, 1e-3)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(again, IDS), logits(merged, IDS))


def test_a_cut_model_saves_itself_as_the_export_does(dense, plan, folder, tmp_path):
    plan.apply(dense).save_pretrained(tmp_path)
    for name in ("modeling_pruned.py", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    saved, exported = (json.loads((path / "config.json").read_text()) for path in (tmp_path, folder))
    assert exported.pop("pruned_from")["label"] == "LlamaForCausalLM" and saved == exported


def test_a_cut_model_is_not_uploaded_before_its_widths_are_written(dense, plan, tmp_path):
    with pytest.raises(UserError, match=r"does not upload it\ncall model.push_to_hub"):
        plan.apply(dense).save_pretrained(tmp_path / "small", push_to_hub=True)
    assert not list(tmp_path.iterdir())


def test_a_cut_model_that_was_trained_since_is_exported_without_its_plan(dense, plan, tmp_path):
    trained = plan.apply(dense)
    with torch.no_grad():
        trained.model.layers[2].mlp.down_proj.weight.mul_(0.5)
    again = AutoModelForCausalLM.from_pretrained(reproducer.export(trained, None, tmp_path / "trained"))
    assert torch.equal(logits(again, IDS), logits(trained, IDS))


def test_a_cut_model_can_be_pickled(dense, plan, loaded):
    for model in (plan.apply(dense), loaded):
        again = pickle.loads(pickle.dumps(model))
        assert type(again) is type(model) and torch.equal(logits(again, IDS), logits(model, IDS))


def test_a_plan_of_another_base_is_refused(plan, tmp_path):
    """Of the same shapes: only the weights tell."""
    other = tiny(layers=4, heads=6, groups=3, hidden=48, channels=40, tied=True, seed=1)
    with pytest.raises(UserError, match="made for another model: for weights with the hash"):
        reproducer.export(other, plan, tmp_path / "small")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders as people have them: dense, cut here, and trained since by peft and saved by transformers."""
    root = tmp_path_factory.mktemp("folders")
    dense = tiny(layers=4, heads=6, groups=3, hidden=48, channels=40, vocab=259)
    plan = reproducer.prune(dense, "flap", IDS, ratio=0.25, layers=range(1, 4))
    dense.save_pretrained(root / "dense")
    (root / "dense/generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2}')
    dense.generation_config.update(temperature=0.9, top_p=0.6)
    reproducer.export(dense, plan, root / "cut", tokenizer=byte_tokenizer())
    cut = AutoModelForCausalLM.from_pretrained(root / "cut")
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = get_peft_model(cut, config)
    adapted.save_pretrained(root / "trained")  # trainers leave it beside the merged weights
    adapted.merge_and_unload().save_pretrained(root / "trained")
    for name in ("dense", "trained"):
        byte_tokenizer().save_pretrained(root / name)
    return root


@pytest.mark.parametrize("name", ["dense", "cut", "trained"])
@pytest.mark.filterwarnings("ignore:.*without the adapter beside them")
def test_any_folder_is_exported(folders, name, tmp_path, capsys):
    """To transformers, and to llama.cpp, whose losses are the model's."""
    assert main(["export", str(folders / name), str(tmp_path / "hf")]) == 0
    model, _ = load_model(folders / name)
    again, _ = load_model(tmp_path / "hf")
    assert torch.equal(logits(again, IDS), logits(model, IDS))
    card = (tmp_path / "hf/README.md").read_text()
    assert ("pruned" in card.splitlines()[-1] or "Cut before: flap" in card) == (name != "dense")
    assert main(["export", str(folders / name), str(tmp_path / "gguf"), "--format", "gguf", "--quantize", "f32"]) == 0
    assert "written to" in capsys.readouterr().out
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
    from reproducer.evaluation.llama_cpp import LlamaCpp

    losses = LlamaCpp(tmp_path / "gguf/model-f32.gguf", 48).losses(IDS[0].tolist())
    chances = logits(model, IDS)[0].double().log_softmax(-1)
    assert losses == pytest.approx((-chances[:-1].gather(1, IDS[0, 1:, None])[:, 0]).tolist(), abs=0.05)


def test_a_card_keeps_the_whole_lineage(folders, tmp_path):
    """Also over a training elsewhere, which writes no card; what was measured before the cut is not called dense."""
    model, tokenizer = load_model(folders / "cut")
    plan = reproducer.prune(model, "magnitude", ratio=0.1, layers=range(1, 4))
    reproducer.export(model, plan, tmp_path / "again", tokenizer=tokenizer)
    AutoModelForCausalLM.from_pretrained(tmp_path / "again").save_pretrained(tmp_path / "trained")
    byte_tokenizer().save_pretrained(tmp_path / "trained")
    smaller = reproducer.prune(load_model(tmp_path / "trained")[0], "vector", IDS, ratio=0.1, layers=range(1, 4))
    reproducer.export(load_model(tmp_path / "trained")[0], smaller, tmp_path / "third", tokenizer=tokenizer)
    card = (tmp_path / "third/README.md").read_text()
    assert re.search(r"Cut before: flap, 2.\.\d% of the parameters; magnitude, 1\d\.\d% of the parameters\.", card)
    assert "# LlamaForCausalLM, pruned" in card


def test_a_model_of_the_hub_brings_its_tokenizer(dense, tmp_path, monkeypatch):
    """And where none is to be had that is said, and the card does not load one."""
    dense.config._name_or_path = "org/model"
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: byte_tokenizer())
    with_it = reproducer.export(dense, None, tmp_path / "with")
    assert (with_it / "tokenizer.json").is_file() and "AutoTokenizer" in (with_it / "README.md").read_text()
    monkeypatch.delattr("transformers.AutoTokenizer.from_pretrained")
    with pytest.warns(UserWarning, match="no tokenizer is known"):
        without = reproducer.export(dense, None, tmp_path / "without")
    assert "AutoTokenizer" not in (without / "README.md").read_text()
    dense.config._name_or_path = ""


def test_what_no_configuration_can_say_is_refused(dense, tmp_path):
    model = tiny()
    reproducer.Plan(units_of(model, architecture_of(model)), {"heads": {0: [0]}}).apply_(model)
    model.model.layers[1].mlp.extra = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"layers.1.mlp.extra.bias is \(2,\), from its configuration not there"):
        reproducer.export(model, None, tmp_path / "small")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["llama", "opt", "gpt_neox"])
def test_a_head_count_that_the_family_refuses_takes_a_module(family, tmp_path):
    """LLaMA's configuration wants a hidden size that its heads divide, OPT's attention does."""
    model = family_model(family, dtype=torch.float32)
    plan = reproducer.Plan(units_of(model, architecture_of(model)), {"heads": {index: [0, 1, 2] for index in range(3)}})
    folder = reproducer.export(model, plan, tmp_path / "small")
    assert json.loads((folder / "config.json").read_text())["model_type"] == f"pruned_{family}"
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder), IDS), logits(plan.apply(model), IDS))


def test_phi3_counts_its_heads_layer_by_layer(tmp_path):
    """Its forward pass reads the number from the configuration, which all layers share."""
    model = family_model("phi3", groups=2, dtype=torch.float32)
    plan = reproducer.Plan(units_of(model, architecture_of(model)), {"heads": {1: [1]}})
    folder = reproducer.export(model, plan, tmp_path / "small")
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert [layer.self_attn.config.num_attention_heads for layer in again.model.layers] == [4, 2, 4]
    again.set_attn_implementation("eager")
    assert again.model.layers[1].self_attn.config._attn_implementation == "eager"
