"""What an architecture couples: widths and parameter counts against models cut by hand; refusals by name."""

import copy

import peft
import pytest
import torch
from hypothesis import given
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config

from reproducer.errors import UserError
from reproducer.models.architecture import (
    FAMILIES,
    KINDS,
    architecture_of,
    layer_shape,
    parameter_count,
    unit_parameters,
)
from tests.helpers import cut_by_hand, decoder_layers, examples, shapes, tiny, widths


@examples(20)
@given(shape=shapes())
def test_shape_and_parameters_of_a_unit(shape):
    """One unit cut away by hand takes exactly `unit_parameters` with it."""
    model = tiny(**shape)
    architecture, last = architecture_of(model), shape["layers"] - 1
    layer = decoder_layers(model)[last]
    found = layer_shape(layer)
    assert (found.groups, found.queries_per_group, found.channels) == widths(model, last)
    assert (found.hidden, found.head_dim) == (shape["hidden"], shape["head_dim"])
    for kind in KINDS:
        units = found.units(kind)
        if units == 1:
            continue
        smaller = cut_by_hand(model, {last: {kind: range(1, units)}})
        assert parameter_count(model) - parameter_count(smaller) == unit_parameters(layer, architecture, kind)


def test_uneven_layers_are_read_from_their_weights(uneven_model):
    layers = decoder_layers(uneven_model)
    assert [layer_shape(layer).groups for layer in layers] == [4, 3, 4, 4]
    assert [layer_shape(layer).channels for layer in layers] == [20, 13, 11, 20]
    assert {layer_shape(layer).queries_per_group for layer in layers} == {2}


def test_tied_embeddings_count_once():
    assert parameter_count(tiny(tied=False)) - parameter_count(tiny(tied=True)) == 61 * 32


def test_unknown_model_type_is_refused_with_those_that_are_known():
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=30, bos_token_id=0, eos_token_id=0)
    with pytest.raises(UserError, match="gpt2") as error:
        architecture_of(AutoModelForCausalLM.from_config(config))
    for name in (name for family in FAMILIES for name in family.model_types):
        assert name in str(error.value)


def test_something_that_is_no_language_model_is_refused():
    with pytest.raises(UserError, match="Linear"):
        architecture_of(nn.Linear(2, 2))


class Int8Linear(nn.Linear):
    """Stands for a quantised layer, which is often a subclass of the plain one."""


def test_quantised_layers_are_refused_by_name():
    model = tiny()
    decoder_layers(model)[1].mlp.up_proj = Int8Linear(32, 24, bias=False)
    with pytest.raises(UserError, match=r"layer 1's mlp\.up_proj is a Int8Linear.*\n.*unquantised"):
        architecture_of(model)


def test_adapters_are_refused():
    adapted = peft.get_peft_model(tiny(), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UserError, match=r"self_attn\.q_proj.*\n.*merge adapters"):
        architecture_of(adapted.get_base_model())


def test_a_peft_wrapper_is_refused_as_such():
    adapted = peft.get_peft_model(tiny(), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UserError, match=r"merge|PeftModel"):
        architecture_of(adapted)


def test_a_model_without_a_language_model_head_is_refused():
    with pytest.raises(UserError, match="LlamaModel"):
        architecture_of(AutoModel.from_config(tiny().config))


def test_a_norm_over_several_heads_is_refused():
    model = tiny("qwen3")
    decoder_layers(model)[2].self_attn.q_norm.weight = nn.Parameter(torch.ones(32))
    with pytest.raises(UserError, match="layer 2's q_norm"):
        architecture_of(model)


def test_a_missing_member_is_named():
    model = copy.deepcopy(tiny())
    del decoder_layers(model)[0].mlp.gate_proj
    with pytest.raises(UserError, match=r"layer 0.*mlp\.gate_proj"):
        architecture_of(model)


def test_adding_a_unit_needs_no_weights():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny(groups=2).config)
    layer = decoder_layers(model)[0]
    assert layer_shape(layer).groups == 2
    assert unit_parameters(layer, architecture_of(model), "channels") == 3 * 32
