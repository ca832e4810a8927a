"""Training: what is learned, that the base stays frozen, parity with a plain training loop, refusals."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from lora_cases import ROWS, Settings, contents, uneven_llama, word_tokenizer
from safetensors.torch import load_file
from torch import nn
from transformers import get_linear_schedule_with_warmup

from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of
from reproducer.recovery import training
from reproducer.recovery.adapter import add_adapter
from reproducer.recovery.examples import padded, tokenised
from reproducer.recovery.lora import train_lora
from reproducer.recovery.training import TrainingRun, derived_seed, learning_rate, response_losses


def test_importing_the_room_imports_nothing_heavy():
    check = "import sys, reproducer.recovery; print([m for m in ('torch', 'peft', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "[]"


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
    settings = Settings(epochs=20, dropout=0.05)
    result = train_lora(model, tokenizer, ROWS, settings, directory, seed=1, progress=lambda *call: calls.append(call))
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers were disturbed"
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert [(name, type(module)) for name, module in model.named_modules()] == modules
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert tokenizer.pad_token is None and tokenizer.backend_tokenizer.to_str() == saved
    return directory, result, calls, settings


def test_the_loss_falls_on_a_small_repeated_set(trained):
    _, result, _, settings = trained
    losses = [entry["loss"] for entry in result.losses]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert result.steps == len(losses) == math.ceil(settings.epochs * len(ROWS) / settings.batch)
    assert result.examples == result.losses[-1]["examples"] == settings.epochs * len(ROWS)
    assert (result.rows, result.dropped) == (len(ROWS), 0)
    assert [entry["step"] for entry in result.losses] == list(range(1, result.steps + 1))


def test_a_finished_run_leaves_the_adapter_and_the_losses_and_names_no_machine(trained):
    directory, result, calls, _ = trained
    files = contents(directory)
    assert files.keys() == {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "losses.json"}
    assert json.loads(files["losses.json"]) == result.losses
    config = json.loads(files["adapter/adapter_config.json"])
    assert config["base_model_name_or_path"] is None
    assert not [value for value in config.values() if isinstance(value, str) and "/" in value]
    done = [call[0] for call in calls]
    assert done == sorted(done) and done[-1] == result.steps and {call[1] for call in calls} == {result.steps}


@pytest.mark.parametrize("norm", [1.0, 1e9], ids=["clipped", "unclipped"])
def test_training_equals_a_plain_loop_with_peft_and_transformers(tmp_path, monkeypatch, norm):
    """float64, one example a micro-batch of ours, whole batches there: rounding aside, the same adapter.

    Clipping hides a wrong scale of the gradient, and Adam hides one that is the same in all steps: so once without
    clipping, in batches that differ in their number of response tokens.
    """
    monkeypatch.setattr(training, "GRADIENT_NORM", norm)
    settings = Settings(batch=3, micro_batch=1, epochs=3, warmup_steps=2)
    model, tokenizer = uneven_llama(torch.float64), word_tokenizer()
    ours = train_lora(model, tokenizer, ROWS, settings, tmp_path, seed=3)

    plain = add_adapter(model, settings, derived_seed(3, "adapter")).train()
    weights = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, settings.warmup_steps, ours.steps)
    examples, _ = tokenised(ROWS, tokenizer, settings.cutoff)
    order = TrainingRun(plain, architecture_of(model), examples, settings, seed=3, steps=7, padding=0).order
    for entry in ours.losses:
        numbers, order = order[: settings.batch], order[settings.batch :]
        loss = plain(**left_padded([examples[number] for number in numbers])).loss
        assert entry["loss"] == pytest.approx(loss.item(), rel=1e-6)  # transformers takes its loss in float32
        assert entry["learning_rate"] == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert not order
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
    examples, _ = tokenised(ROWS, tokenizer, 96)
    assert len({example.targets for example in examples}) > 3, "the rows must differ in length for this test"
    runs = []
    for micro_batch in (1, 3, 5):
        settings = Settings(batch=5, micro_batch=micro_batch)
        directory = tmp_path / str(micro_batch)
        losses = [entry["loss"] for entry in train_lora(model, tokenizer, ROWS, settings, directory, seed=0).losses]
        runs.append((losses, load_file(directory / "adapter" / "adapter_model.safetensors")))
    for losses, adapter in runs[1:]:
        assert losses == pytest.approx(runs[0][0], rel=1e-9)
        for name, tensor in adapter.items():
            torch.testing.assert_close(tensor, runs[0][1][name], rtol=1e-5, atol=1e-8)


def test_seed_order_and_dropout(tmp_path):
    model, tokenizer = uneven_llama(), word_tokenizer()

    def losses(name, seed, **changes):
        result = train_lora(model, tokenizer, ROWS, replace(Settings(), **changes), tmp_path / name, seed)
        return [entry["loss"] for entry in result.losses]

    assert losses("a", 0, dropout=0.3) == losses("b", 0, dropout=0.3)
    assert losses("c", 1) != losses("d", 0) != losses("e", 0, dropout=0.3)


def test_every_epoch_has_all_rows_in_an_order_of_its_own():
    model, settings = uneven_llama(), Settings(epochs=3)
    examples, _ = tokenised(ROWS, word_tokenizer(), settings.cutoff)
    adapted = add_adapter(model, settings, seed=0)
    run = TrainingRun(adapted, architecture_of(model), examples, settings, seed=0, steps=6, padding=0)
    epochs = [tuple(run.order[start : start + len(ROWS)]) for start in range(0, len(run.order), len(ROWS))]
    assert len(epochs) == len(set(epochs)) == settings.epochs
    assert all(sorted(epoch) == list(range(len(ROWS))) for epoch in epochs)


def test_a_step_limit_ends_training_and_the_schedule(tmp_path):
    settings = Settings(steps=4)
    result = train_lora(uneven_llama(), word_tokenizer(), ROWS, settings, tmp_path, seed=0)
    assert result.steps == len(result.losses) == 4
    assert result.examples == 4 * settings.batch
    rates = [entry["learning_rate"] for entry in result.losses]
    assert rates == pytest.approx([0, 0.5e-2, 1e-2, 0.5e-2])


@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (0, 7), (3, 10), (9, 10)])
def test_the_schedule_is_that_of_transformers(warmup, steps):
    settings = Settings(warmup_steps=warmup, learning_rate=0.25)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=settings.learning_rate)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    for done in range(steps):
        assert learning_rate(done, steps, settings) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_response_losses_are_the_cross_entropy_of_the_response():
    torch.manual_seed(0)
    head = nn.Linear(6, 11, bias=False, dtype=torch.float64).requires_grad_(False)
    hidden = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 11, (3, 5))
    labels[0, :3] = labels[1, 4] = labels[2] = -100
    losses = response_losses(hidden, head, labels)
    expected = nn.functional.cross_entropy(head(hidden[:, :-1]).flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    assert losses.shape == ((labels[:, 1:] >= 0).sum(),)
    torch.testing.assert_close(losses.sum(), expected)
    ours = torch.autograd.grad(losses.sum(), hidden)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(expected, hidden)[0])


def test_padding_changes_nothing():
    model, tokenizer = uneven_llama(torch.float64), word_tokenizer()
    examples, _ = tokenised(ROWS, tokenizer, 96)

    def loss(batch):
        ids, labels = padded(batch, padding=7)
        return response_losses(model.model(ids).last_hidden_state, model.lm_head, labels).sum().item()

    assert loss(examples) == pytest.approx(sum(loss([example]) for example in examples), rel=1e-12)


def test_adapter_weights_are_float32_on_a_bfloat16_base(tmp_path):
    result = train_lora(uneven_llama(torch.bfloat16), word_tokenizer(), ROWS, Settings(epochs=20), tmp_path, seed=0)
    assert {tensor.dtype for tensor in load_file(tmp_path / "adapter/adapter_model.safetensors").values()} == {
        torch.float32
    }
    losses = [entry["loss"] for entry in result.losses]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


def test_a_loss_that_is_not_a_number_names_step_and_rate_and_leaves_no_adapter(tmp_path):
    model = uneven_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"loss is not finite at step 1 of 7 \(learning rate 0\)"):
        train_lora(model, word_tokenizer(), ROWS, Settings(), tmp_path, seed=0)
    assert not contents(tmp_path)


def test_a_run_that_diverges_is_refused(tmp_path):
    huge = Settings(learning_rate=3e37, warmup_steps=0)
    with pytest.raises(
        UserError, match=r"(loss|gradient) is not finite at step 2 of 7 \(learning rate 2\.57\d*e\+37\)"
    ):
        train_lora(uneven_llama(), word_tokenizer(), ROWS, huge, tmp_path, seed=0)
    assert not contents(tmp_path)


def test_a_failed_run_takes_the_adapter_of_an_earlier_one_away(tmp_path):
    model, tokenizer = uneven_llama(), word_tokenizer()
    train_lora(model, tokenizer, ROWS, Settings(steps=3), tmp_path, seed=0)
    with pytest.raises(UserError):
        train_lora(model, tokenizer, [], Settings(steps=3), tmp_path, seed=0)
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    ("changes", "rows", "message"),
    [
        ({}, [], "no instruction rows"),
        ({"cutoff": 10}, ROWS, "recovery.cutoff: 10 tokens leave nothing of the response in any of 7 rows"),
        ({"cutoff": 129}, ROWS, "recovery.cutoff: 129 tokens are more than the 128"),
        ({"warmup_steps": 7}, ROWS, "recovery.warmup_steps: a warm-up of 7 steps does not end within the 7 steps"),
        ({"steps": 2}, ROWS, "recovery.warmup_steps: a warm-up of 2 steps does not end within the 2 steps"),
        ({"targets": ("q_proj", "upproj")}, ROWS, "no linear layer 'upproj'\ndid you mean 'up_proj'"),
        ({"targets": ("lm_head",)}, ROWS, "no linear layer 'lm_head'"),
        ({"targets": ()}, ROWS, "recovery.targets is empty"),
    ],
)
def test_settings_that_do_not_suit(tmp_path, changes, rows, message):
    with pytest.raises(UserError, match=message):
        train_lora(uneven_llama(), word_tokenizer(), rows, Settings(**(asdict(Settings()) | changes)), tmp_path, seed=0)
