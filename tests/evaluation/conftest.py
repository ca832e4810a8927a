"""A tiny random LLaMA, a byte tokenizer, an unevenly cut model; and no way to the network."""

import socket

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
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
