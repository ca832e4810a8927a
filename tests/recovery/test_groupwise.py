"""Group-wise recovery: what stays quantised, that merging loses nothing, families, refusals."""

from __future__ import annotations

import json

import pytest
import torch
from lora_cases import groupwise, job, uneven_llama, word_tokenizer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of
from reproducer.pruning.plan import Plan, units_of
from reproducer.recovery.training.groups import FILE, grouped
from tests.families import Double, family_model

IDS = torch.arange(2, 42).view(2, 20)
BITS, GROUP = 3, 6  # of `groupwise`


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad(), Double():
        return model(IDS).logits


def pruned(family: str, dtype: torch.dtype = torch.float64):
    """A model with grouped-query attention where the family has it, cut unevenly, with a bias that compensates."""
    more = {} if family == "opt" else {"groups": 2}
    vocabulary = len(word_tokenizer())
    model = family_model(family, dtype=dtype, vocab_size=vocabulary, max_position_embeddings=128, **more)
    architecture = architecture_of(model)
    units = units_of(model, architecture)
    path = f"{architecture.layers}.2.{architecture.output('channels')}.bias"
    bias = torch.linspace(-1, 1, model.config.hidden_size)
    plan = Plan(units, {"heads": {1: [1]}, "channels": {1: [0, 3, 4, 9, 17], 2: list(range(23))}}, tensors={path: bias})
    return plan.apply(model)


@pytest.fixture(scope="module", params=["llama", "phi3", "opt"])
def case(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    groupwise(rank=2).train(job(directory, model=pruned(request.param)))
    return directory, request.param


def targets(model: nn.Module) -> dict[str, nn.Linear]:
    architecture = architecture_of(model)
    return {
        f"{architecture.layers}.{index}.{path}": layer.get_submodule(path)
        for index, layer in enumerate(architecture.decoder_layers(model))
        for path in architecture.modules()
    }


def test_what_is_loaded_runs_on_quantised_weights_and_everything_else_is_the_models(case):
    directory, family = case
    before, loaded = pruned(family), groupwise().apply(pruned(family), directory)
    expected = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    for path, linear in targets(before).items():
        expected[f"{path}.weight"] = grouped(linear.weight, BITS, GROUP).weight()
    found = {name: tensor for name, tensor in loaded.state_dict().items() if "lora_" not in name}
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert not loaded.training and not any(weight.requires_grad for weight in loaded.parameters())


def test_training_leaves_the_quantised_weights_as_they_are(tmp_path):
    model = uneven_llama()
    expected = {path: grouped(linear.weight, BITS, GROUP).weight() for path, linear in targets(model).items()}
    rest = {name: weight.clone() for name, weight in model.named_parameters() if "_proj" not in name}
    groupwise(learning_rate=0.1).train(job(tmp_path, model=model))
    for path, weight in expected.items():
        assert torch.equal(model.get_submodule(path).weight, weight)
    assert all(torch.equal(model.get_parameter(name), weight) for name, weight in rest.items())


def test_merging_moves_the_offsets_and_keeps_codes_and_steps(case):
    """From the file by hand: the difference is one number a group, scale · B · A, and the model gives the same."""
    directory, family = case
    before, tensors = pruned(family), load_file(directory / FILE)
    merged = groupwise(rank=4).apply(pruned(family), directory, merge=True)  # the file says what it was made with
    assert [type(module) for module in merged.modules()] == [type(module) for module in before.modules()]
    assert merged.state_dict().keys() == before.state_dict().keys()
    effect = 0.0
    for path, linear in targets(before).items():
        moved = merged.get_submodule(path).weight - grouped(linear.weight, BITS, GROUP).weight()
        product = tensors[f"{path}.lora_B"] @ tensors[f"{path}.lora_A"] * (8.0 / 2)
        for number, columns in enumerate(moved.split(GROUP, dim=1)):
            shift = product[:, [number]].expand_as(columns)
            torch.testing.assert_close(columns, shift, rtol=0, atol=1e-13)
            effect = max(effect, shift.abs().max().item())
    assert effect > 1e-3
    loaded = logits(groupwise().apply(pruned(family), directory))
    torch.testing.assert_close(logits(merged), loaded, rtol=1e-10, atol=1e-10)
    assert (loaded - logits(before)).abs().max() > 1e-2


def test_a_bfloat16_model_has_adapters_in_float32_and_merges_to_within_its_rounding(tmp_path):
    groupwise().train(job(tmp_path, model=uneven_llama(torch.bfloat16)))
    assert {tensor.dtype for tensor in load_file(tmp_path / FILE).values()} == {torch.float32}
    base, merged = (groupwise().apply(uneven_llama(torch.bfloat16), tmp_path, merge=merge) for merge in (False, True))
    assert {weight.dtype for weight in merged.parameters()} == {torch.bfloat16}
    for path, linear in targets(merged).items():
        part = base.get_submodule(path)
        exact = (
            part.weight.double()
            + (2.0 * part.lora_B.double() @ part.lora_A.double()).repeat_interleave(GROUP, dim=1)[
                :, : linear.in_features
            ]
        )
        # half a unit in the last place of the base's rounding, of the sum's, and of nothing else
        bound = torch.finfo(torch.bfloat16).eps * (part.weight.abs() + linear.weight.abs())
        assert ((linear.weight - exact).abs() <= bound).all()


def test_an_adapter_of_another_plan_is_refused(tmp_path):
    groupwise(steps=3).train(job(tmp_path))
    other = uneven_llama()
    other.model.layers[2].mlp.down_proj = nn.Linear(20, 32, bias=False)
    for merge in (False, True):
        with pytest.raises(UserError, match=r"does not fit this model: that of model\.layers\.2\.mlp\.down_proj is"):
            groupwise().apply(other, tmp_path, merge=merge)
    with pytest.raises(UserError, match=r"that of model\.layers\.0\.mlp\.down_proj is"):
        groupwise().apply(family_model("opt", dtype=torch.float32), tmp_path)


@pytest.mark.parametrize("how", ["missing", "cut short", "no layout", "bad layout"])
def test_a_garbled_file_is_refused(tmp_path, how):
    from safetensors.torch import save_file

    groupwise(steps=3).train(job(tmp_path))
    path = tmp_path / FILE
    tensors, content = load_file(path), path.read_bytes()
    with safe_open(path, framework="pt") as file:
        layout = json.loads(file.metadata()["layout"])
    assert layout == {"bits": BITS, "group": GROUP, "scale": 2.0}
    path.unlink()
    if how == "cut short":
        path.write_bytes(content[: len(content) // 2])
    if how == "no layout":
        save_file(tensors, path)
    if how == "bad layout":
        save_file(tensors, path, metadata={"layout": json.dumps(layout | {"group": 0})})
    with pytest.raises(UserError, match="is no usable group-wise adapter"):
        groupwise().apply(uneven_llama(), tmp_path)
