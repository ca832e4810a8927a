"""Training: what is learned, that the base stays frozen, parity with a plain training loop, refusals."""

from __future__ import annotations

import json
import math

import pytest
import torch
from lora_cases import PAIRS, ROWS, TARGETS, contents, fresh_adapter, lora, uneven_llama, word_tokenizer
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from transformers import get_linear_schedule_with_warmup

from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of, family_of
from reproducer.recovery.registry import Job
from reproducer.recovery.training import run as training
from reproducer.recovery.training.examples import Phase, tokenised
from reproducer.recovery.training.run import response_losses
from tests.families import SIX, family_model


def train(settings, directory, seed=0, model=None, **more):
    return settings.train(Job(model or uneven_llama(), word_tokenizer(), directory, seed, **more))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run in which everything that the caller owns is compared with what it was."""
    directory = tmp_path_factory.mktemp("trained")
    model, tokenizer = uneven_llama().train(), word_tokenizer()
    model.model.embed_tokens.weight.requires_grad_(False)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modules = [(name, type(module)) for name, module in model.named_modules()]
    saved = tokenizer.backend_tokenizer.to_str()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    calls = []
    settings = lora(epochs=20, dropout=0.05)
    result = settings.train(Job(model, tokenizer, directory, 1, lambda *call: calls.append(call)))
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers were disturbed"
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert [(name, type(module)) for name, module in model.named_modules()] == modules
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert tokenizer.pad_token is None and tokenizer.backend_tokenizer.to_str() == saved
    return directory, result, calls, settings


def test_the_loss_falls_on_a_small_repeated_set(trained):
    _, result, _, settings = trained
    losses = [entry["loss"] for entry in result]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert len(losses) == math.ceil(settings.epochs * len(ROWS) / settings.batch)
    assert result[-1]["examples"] == settings.epochs * len(ROWS)
    assert [entry["step"] for entry in result] == list(range(1, len(losses) + 1))


def test_a_finished_run_leaves_the_adapter_and_names_no_machine(trained):
    directory, result, calls, _ = trained
    files = contents(directory)
    assert files.keys() == {"adapter/adapter_model.safetensors", "adapter/adapter_config.json"}
    config = json.loads(files["adapter/adapter_config.json"])
    assert config["base_model_name_or_path"] is None
    assert not [value for value in config.values() if isinstance(value, str) and "/" in value]
    assert config["target_modules"] == sorted(TARGETS)
    done = [call[0] for call in calls]
    assert done == sorted(done) and done[-1] == len(result) and {call[1] for call in calls} == {len(result)}


@pytest.mark.parametrize("norm", [1.0, 1e9], ids=["clipped", "unclipped"])
def test_training_equals_a_plain_loop_with_peft_and_transformers(tmp_path, monkeypatch, norm):
    """float64, one example a micro-batch of ours, whole batches there: rounding aside, the same adapter.

    Clipping hides a wrong scale of the gradient, and Adam hides one that is the same in all steps: so once without
    clipping, in batches that differ in their number of response tokens.
    """
    monkeypatch.setattr(training, "GRADIENT_NORM", norm)
    settings = lora(batch=3, micro_batch=1, epochs=3, warmup_steps=2)
    model, tokenizer = uneven_llama(torch.float64), word_tokenizer()
    ours = train(settings, tmp_path, 3, model)

    plain = fresh_adapter(model, settings, seed=3).train()
    weights = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, settings.warmup_steps, len(ours))
    examples, _ = tokenised(PAIRS, tokenizer, settings.cutoff)
    phase = Phase(examples, steps=7, warmup=2, passes=3 * len(examples))
    for step, entry in enumerate(ours):
        loss = plain(**left_padded(phase.batch(step, size=3, seed=3))).loss
        assert entry["loss"] == pytest.approx(loss.item(), rel=1e-6)  # transformers takes its loss in float32
        assert entry["learning_rate"] == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert phase.batch(len(ours), size=3, seed=3) == []
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            written = saved[name.replace(".default", "")]
            torch.testing.assert_close(written, parameter.detach(), rtol=1e-4, atol=1e-6)


def left_padded(examples):
    """Inputs for a transformers model, padded on the left with a mask, as LLM-Pruner pads."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        start = longest - len(example.ids)
        ids[row, start:], mask[row, start:] = torch.tensor(example.ids), 1
        labels[row, start + example.prompt :] = torch.tensor(example.ids[example.prompt :])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": labels}


def test_micro_batches_of_unequal_lengths_weigh_as_one_batch(tmp_path):
    model, tokenizer = uneven_llama(torch.float64), word_tokenizer()
    examples, _ = tokenised(PAIRS, tokenizer, 96)
    assert len({example.targets for example in examples}) > 3, "the rows must differ in length for this test"
    runs = []
    for micro_batch in (1, 2, 3, 6):
        settings = lora(batch=6, micro_batch=micro_batch)
        directory = tmp_path / str(micro_batch)
        losses = [entry["loss"] for entry in train(settings, directory, 0, model)]
        runs.append((losses, load_file(directory / "adapter" / "adapter_model.safetensors")))
    for losses, adapter in runs[1:]:
        assert losses == pytest.approx(runs[0][0], rel=1e-9)
        for name, tensor in adapter.items():
            torch.testing.assert_close(tensor, runs[0][1][name], rtol=1e-5, atol=1e-8)


def test_a_step_limit_ends_training_and_the_schedule(tmp_path):
    settings = lora(steps=4)
    losses = train(settings, tmp_path)
    assert len(losses) == 4
    assert losses[-1]["examples"] == 4 * settings.batch
    rates = [entry["learning_rate"] for entry in losses]
    assert rates == pytest.approx([0, 0.5e-2, 1e-2, 0.5e-2])


@pytest.mark.parametrize("family", SIX)
def test_response_losses_are_the_models_own_losses_of_the_response(family):
    """Soft-capped, scaled and biased logits too, and their gradients."""
    model = family_model(family).requires_grad_(False)
    decoder = family_of(model.config).decoder_of(model)
    ids = torch.randint(0, model.config.vocab_size, (3, 6), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, :3] = labels[1, 4] = labels[2] = -100
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    losses = response_losses(model, decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state, labels)
    logits = model(inputs_embeds=embedded, use_cache=False).logits
    expected = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    assert losses.shape == ((labels[:, 1:] >= 0).sum(),)
    torch.testing.assert_close(losses.sum(), expected)
    ours = torch.autograd.grad(losses.sum(), embedded)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(expected, embedded)[0])


def test_a_loss_that_is_not_a_number_names_step_and_rate_and_leaves_no_adapter(tmp_path):
    model = uneven_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"loss is not finite at step 1 of 7 \(learning rate 0\)"):
        train(lora(), tmp_path, model=model)
    assert not contents(tmp_path)


def test_rows_that_the_cut_leaves_without_a_response_are_told(tmp_path):
    prompts = sorted(example.prompt for example in tokenised(PAIRS, word_tokenizer(), 200)[0])
    said = []
    train(lora(cutoff=prompts[4], steps=3), tmp_path, say=said.append)  # as long as the longest three prompts, or less
    assert said == [f"3 of 7 rows are left out: a cut at {prompts[4]} tokens leaves no response"]


@pytest.mark.parametrize("family", SIX)
def test_every_family_is_trained_in_all_its_declared_modules(tmp_path, family):
    tokenizer = word_tokenizer()
    model = family_model(family, dtype=torch.float32, vocab_size=len(tokenizer), max_position_embeddings=128)
    settings = lora(steps=1, warmup_steps=0, epochs=1, batch=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = settings.train(Job(model, tokenizer, tmp_path, 0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert math.isfinite(losses[0]["loss"])
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    trained = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in saved}
    architecture = architecture_of(model)
    layers = range(model.config.num_hidden_layers)
    assert trained == {f"{architecture.layers}.{layer}.{path}" for layer in layers for path in architecture.modules()}
    ids = torch.randint(0, len(tokenizer), (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain, adapted, merged = (
            m(ids).logits for m in (model, settings.apply(model, tmp_path), settings.apply(model, tmp_path, merge=True))
        )
    effect = (adapted - plain).abs().max()
    assert (adapted - merged).abs().max() < 0.01 * effect  # rounding is some 1e-6 of the logits, the effect 1e-2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutoff": 10}, "recovery.cutoff: 10 tokens leave nothing of the response in any of 7 rows"),
        ({"cutoff": 129}, "recovery.cutoff: 129 tokens are more than the 128"),
        ({"warmup_steps": 7}, "recovery.warmup_steps: a warm-up of 7 steps does not end within the 7 steps"),
        ({"targets": ["q_proj", "upproj"]}, "no linear layer 'upproj'\ndid you mean 'up_proj'"),
        ({"targets": ["lm_head"]}, "no linear layer 'lm_head'"),
    ],
)
def test_settings_that_do_not_suit(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(lora(**changes), tmp_path)


def test_a_warm_up_beyond_the_steps_is_refused_before_anything_runs():
    with pytest.raises(ValidationError, match="a warm-up of 2 steps does not end within the 2 of training"):
        lora(steps=2)


def test_a_failed_run_takes_the_adapter_of_an_earlier_one_away(tmp_path):
    train(lora(steps=3), tmp_path)
    with pytest.raises(UserError):
        train(lora(cutoff=10), tmp_path)
    assert not contents(tmp_path)
