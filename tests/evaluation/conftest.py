"""A tiny random LLaMA, a byte tokenizer, an unevenly cut model; and no way to the network."""

import copy
import socket

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def tokenizer():
    """One token a byte, `<s>` as its only special token, so without a padding token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: index for index, letter in enumerate(["<s>", *alphabet])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<s>")


@pytest.fixture(scope="session")
def make_model():
    def make(seed=0, **settings):
        torch.manual_seed(seed)
        config = LlamaConfig(
            **{
                "vocab_size": 257,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "max_position_embeddings": 2048,
                "initializer_range": 0.2,  # logits that differ, unlike those of the default 0.02
                "tie_word_embeddings": True,
                "bos_token_id": 0,
                "eos_token_id": 0,
                **settings,
            }
        )
        return LlamaForCausalLM(config).eval()

    return make


@pytest.fixture(scope="session")
def model(make_model):
    return make_model()


@pytest.fixture(scope="session")
def uneven_pair(model):
    """The model with a head of layer 0 and channels of layer 1 cut away, and the whole one with them zeroed."""
    cut, masked = copy.deepcopy(model), copy.deepcopy(model)
    head_dim = model.config.head_dim
    rows = [row for row in range(4 * head_dim) if row // head_dim != 2]
    channels = list(range(31))

    def keep(linear: nn.Linear, indices, dim):
        linear.weight = nn.Parameter(linear.weight.detach().index_select(dim, torch.tensor(indices)))

    attention, mlp = cut.model.layers[0].self_attn, cut.model.layers[1].mlp
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
        keep(linear, rows, 0)
    keep(attention.o_proj, rows, 1)
    keep(mlp.gate_proj, channels, 0)
    keep(mlp.up_proj, channels, 0)
    keep(mlp.down_proj, channels, 1)
    with torch.no_grad():
        masked.model.layers[0].self_attn.o_proj.weight[:, 2 * head_dim : 3 * head_dim] = 0
        masked.model.layers[1].mlp.down_proj.weight[:, 31:] = 0
    return cut, masked
