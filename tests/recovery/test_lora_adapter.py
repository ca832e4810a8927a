"""A trained adapter: loaded, merged, refused where it does not fit."""

from __future__ import annotations

import shutil

import peft
import pytest
import torch
from lora_cases import lora, uneven_llama, word_tokenizer
from safetensors.torch import load_file
from torch import nn

from reproducer.errors import UserError
from reproducer.recovery.registry import Job

IDS = torch.arange(2, 42).view(2, 20)
SETTINGS = lora(targets=["q_proj", "v_proj", "o_proj", "down_proj"])


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def of_effect(dtype: torch.dtype) -> float:
    """How far two ways to compute the same may be apart, in parts of what the adapter changes (a tenth and more).

    Rounding moves logits by some 20 steps of the type's precision: 2e-6 of their scale in float32, 8e-2 in bfloat16.
    """
    return 0.5 if dtype == torch.bfloat16 else 1e-3


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16, torch.float64], ids=str)
def case(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("adapter")
    SETTINGS.train(Job(uneven_llama(request.param), word_tokenizer(), directory, seed=0))
    return directory, uneven_llama(request.param)


def by_hand(model: nn.Module, directory) -> nn.Module:
    """A fresh model with W + alpha/rank * B A written into its weights: from the file, without peft."""
    dtype = next(model.parameters()).dtype
    adapted, tensors = uneven_llama(dtype), load_file(directory / "adapter" / "adapter_model.safetensors")
    a_names = [name for name in tensors if name.endswith("lora_A.weight")]
    assert len(a_names) == 3 * len(SETTINGS.targets) and len(tensors) == 2 * len(a_names)
    for name in a_names:
        linear = adapted.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        delta = tensors[name.replace("lora_A", "lora_B")] @ tensors[name] * (SETTINGS.alpha / SETTINGS.rank)
        with torch.no_grad():
            linear.weight += delta.to(dtype)
    return adapted


def test_a_loaded_adapter_is_active_and_the_model_stays_as_it_was(case):
    directory, model = case
    before = logits(model)
    adapted = SETTINGS.apply(model, directory)
    assert type(adapted) is type(model) and not adapted.training
    assert torch.equal(logits(model), before)
    effect = (logits(adapted) - before).abs().max()
    assert effect > 0.1 * before.abs().max()
    assert (logits(adapted) - logits(by_hand(model, directory))).abs().max() < effect * of_effect(before.dtype)
    assert torch.equal(logits(SETTINGS.apply(model, directory / "adapter")), logits(adapted))


def test_merging_gives_a_plain_model_and_leaves_the_base_weights_alone(case):
    directory, model = case
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = SETTINGS.apply(model, directory, merge=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [type(module) for module in merged.modules()] == [type(module) for module in model.modules()]
    assert merged.state_dict().keys() == before.keys() and not hasattr(merged, "peft_config")
    adapted = logits(SETTINGS.apply(model, directory))
    effect = (adapted - logits(model)).abs().max()
    assert (logits(merged) - adapted).abs().max() < effect * of_effect(adapted.dtype)
    assert merged.model.layers[0].mlp.up_proj.weight.data_ptr() == model.model.layers[0].mlp.up_proj.weight.data_ptr()


def test_peft_reads_what_was_written(case):
    directory, model = case
    twin = uneven_llama(next(model.parameters()).dtype)
    theirs = peft.PeftModel.from_pretrained(twin, directory / "adapter")
    assert torch.equal(logits(theirs), logits(SETTINGS.apply(model, directory)))


def test_an_adapter_of_another_plan_is_refused(case):
    directory, model = case
    other = uneven_llama(next(model.parameters()).dtype)
    other.model.layers[2].mlp.down_proj = nn.Linear(30, 32, bias=False)
    with pytest.raises(UserError, match=r"does not fit this model: .*layers\.2\.mlp\.down_proj\.lora_A.* \(4, 33\)"):
        SETTINGS.apply(other, directory)
    assert type(other.model.layers[0].self_attn.q_proj) is nn.Linear


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("how", ["missing", "cut short"])
def test_a_garbled_adapter_is_refused(case, tmp_path, file, how):
    directory, model = case
    copied = tmp_path / "adapter"
    shutil.copytree(directory / "adapter", copied)
    content = (copied / file).read_bytes()
    (copied / file).unlink()
    if how == "cut short":
        (copied / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="holds no usable adapter"):
        SETTINGS.apply(model, tmp_path, merge=True)
