"""What is loaded from an exported folder can do what any model of transformers can."""

import json
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import reproducer
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
    for name in ("config.json", "modeling_pruned.py", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


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


def test_what_no_configuration_can_say_is_refused(dense, tmp_path):
    model = tiny()
    reproducer.Plan(units_of(model, architecture_of(model)), {"heads": {0: [0]}}).apply_(model)
    model.model.layers[1].mlp.extra = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"layers.1.mlp.extra.bias is \(2,\), from its configuration not there"):
        reproducer.export(model, None, tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_a_head_count_that_the_family_refuses_takes_a_module(tmp_path):
    """LLaMA's configuration wants a hidden size that its heads divide."""
    model = tiny(heads=4, hidden=32)
    plan = reproducer.Plan(units_of(model, architecture_of(model)), {"heads": {i: [0, 1, 2] for i in range(3)}})
    folder = reproducer.export(model, plan, tmp_path / "small")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "pruned_llama"
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
