"""A tiny random LLaMA, a byte tokenizer, an unevenly cut model; and no way to the network."""

import socket

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.helpers import tiny


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
    def make(**settings):
        more = {"max_position_embeddings": 2048, **settings}
        return tiny(layers=2, channels=48, vocab=257, tied=True, **more)

    return make


@pytest.fixture(scope="session")
def model(make_model):
    return make_model()
