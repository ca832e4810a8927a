"""What an architecture couples: widths and parameter counts against models cut by hand; refusals by name."""

import peft
import pytest
import torch
from hypothesis import given
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GPT2Config

from reproducer.errors import UserError
from reproducer.models.architecture import (
    architecture_of,
    family_of,
    layer_shape,
    linear_at,
)
from reproducer.models.families import FAMILIES
from tests.families import ZOO, family_model, family_shapes, layers_of
from tests.helpers import decoder_layers, examples, tiny


@examples(30)
@given(shape=family_shapes())
def test_the_shape_is_that_of_the_configuration(shape):
    model = family_model(**shape)
    for layer in layers_of(model):
        found = layer_shape(layer, architecture_of(model))
        assert (found.groups, found.groups * found.queries_per_group) == (shape["groups"], shape["heads"])
        assert (found.channels, found.hidden) == (shape["channels"], shape["hidden"])
        assert found.head_dim == shape.get("head_dim", shape["hidden"] // shape["heads"])


@pytest.mark.parametrize("name", ZOO)
def test_members_cover_their_modules(name):
    """The members of a module divide its rows or columns among them, without a gap and without an overlap."""
    model = family_model(name, **ZOO[name])
    architecture = architecture_of(model)
    for layer in layers_of(model):
        shape = layer_shape(layer, architecture)
        for path, axis in architecture.modules().items():
            (kind,) = (kind for kind in architecture.kinds if path in kind.modules())
            members = [member for member in kind.members if member.module == path]
            ranges = [range(10**6)[shape.span(kind, member)] for member in members]
            assert [v for part in ranges for v in part] == list(range(linear_at(layer, path).weight.shape[axis]))
            for member, part in zip(members, ranges, strict=True):
                assert len(part) == shape.counts[kind.name] * shape.vectors_per_unit(member)


def test_uneven_layers_are_read_from_their_weights(uneven_model):
    architecture = architecture_of(uneven_model)
    shapes = [layer_shape(layer, architecture) for layer in decoder_layers(uneven_model)]
    assert [shape.groups for shape in shapes] == [4, 3, 4, 4]
    assert [shape.channels for shape in shapes] == [20, 13, 11, 20]
    assert {shape.queries_per_group for shape in shapes} == {2}


def test_unknown_model_type_is_refused_with_those_that_are_known():
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=30, bos_token_id=0, eos_token_id=0)
    with pytest.raises(UserError, match="gpt2") as error:
        architecture_of(AutoModelForCausalLM.from_config(config))
    for name in (name for family in FAMILIES for name in family.model_types):
        assert name in str(error.value)


SMALL = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30}


@pytest.mark.parametrize(
    ("model_type", "settings", "reason"),
    [
        ("mixtral", {}, "mixture of experts"),
        ("qwen2_moe", {}, "mixture of experts"),
        ("qwen3_moe", {}, "mixture of experts"),
        ("olmoe", {}, "mixture of experts"),
        ("granitemoe", {}, "mixture of experts"),
        ("deepseek_v2", {}, "latent|mixture of experts"),
        ("minicpm3", {}, "latent"),
        ("gemma3n_text", {}, "keys and values of earlier"),
        ("mamba", {}, "recurrent"),
        ("falcon_mamba", {}, "recurrent"),
        ("rwkv", {}, "recurrent"),
        ("gemma3", None, "other inputs.*\n.*gemma3_text"),
        ("mllama", None, "other inputs"),
    ],
)
def test_a_model_that_cannot_be_supported_says_why(model_type, settings, reason):
    """The configuration alone tells: no such model is made here, and none has to be loaded."""
    config = AutoConfig.for_model(model_type, **({} if settings is None else {**SMALL, **settings}))
    with pytest.raises(UserError, match=f"'{model_type}' cannot be pruned: .*({reason})"):
        family_of(config)


class Int8Linear(nn.Linear):
    """Stands for a quantised layer, which is often a subclass of the plain one."""


def changed(change, family="llama"):
    model = tiny(family)
    change(decoder_layers(model)[1])
    return model


REFUSED = {
    "a quantised layer": (
        lambda: changed(lambda layer: setattr(layer.mlp, "up_proj", Int8Linear(32, 24, bias=False))),
        r"layer 1's mlp\.up_proj is a Int8Linear.*\n.*unquantised",
    ),
    "a wrapper of peft": (
        lambda: peft.get_peft_model(tiny(), peft.LoraConfig(target_modules=["q_proj"])),
        r"merge|PeftModel",
    ),
    "no head": (lambda: AutoModel.from_config(tiny().config), "LlamaModel"),
    "a norm over several heads": (
        lambda: changed(lambda layer: setattr(layer.self_attn.q_norm, "weight", nn.Parameter(torch.ones(32))), "qwen3"),
        "layer 1's q_norm spans several heads",
    ),
    "a missing member": (lambda: changed(lambda layer: delattr(layer.mlp, "gate_proj")), r"layer 1.*mlp\.gate_proj"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_pruned_is_refused_by_name(name):
    make, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        architecture_of(make())
