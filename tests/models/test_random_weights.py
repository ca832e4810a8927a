"""Weights that are made while a model loads: nothing of them on the disk, and always the same."""

import pytest
import torch

from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of, layer_shape, linear_at
from reproducer.models.catalogue import CATALOGUE, Drawn, resolve
from reproducer.models.fetch import fetch, recipe
from reproducer.models.load import count_parameters, load_model
from reproducer.models.walk import LayerWalk


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A grouped-query model with tied embeddings, larger in what it would weigh than in what lies there."""
    directory = tmp_path_factory.mktemp("drawn")
    config = {**CATALOGUE["tiny-gqa"].config, "vocab_size": 6000}
    fetch({"source": "drawn", "config": config, "seed": 3}, directory, print)
    return directory


def test_nothing_but_config_seed_and_tokenizer_is_written(folder):
    assert not list(folder.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 50_000
    assert count_parameters(folder) == sum(p.numel() for p in load_model(folder)[0].parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_weights(folder, dtype):
    state = torch.get_rng_state()
    (first, tokenizer), (second, _) = (load_model(folder, dtype) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.training and first.config._attn_implementation == "sdpa"
    for (name, mine), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert mine.dtype == getattr(torch, dtype) and torch.equal(mine, other) and mine.isfinite().all(), name
    assert first.lm_head.weight is first.model.embed_tokens.weight
    ids = torch.tensor(tokenizer("Zürich, any text")["input_ids"])
    assert ids.min() >= 0 and ids.max() < first.config.vocab_size
    assert first(ids[None]).logits.isfinite().all()


TYPES = ("llama", "qwen3", "gemma3_text", "phi3", "gpt_neox", "opt")


def settings(model_type):
    """A small configuration of any declared type, for the byte tokenizer."""
    width = "ffn_dim" if model_type == "opt" else "intermediate_size"
    window = {"query_pre_attn_scalar": 8} if model_type.startswith(("gemma2", "gemma3")) else {}
    return {
        "model_type": model_type,
        "vocab_size": 259,
        "hidden_size": 64,
        width: 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        **window,
    }


@pytest.mark.parametrize("model_type", TYPES)
def test_in_place_they_are_the_weights_that_a_file_would_hold(model_type, tmp_path):
    """Also every buffer is: nothing of the model's own initialisation that it needs is skipped."""
    models = []
    for source in ("random", "drawn"):
        (tmp_path / source).mkdir()
        fetch({"source": source, "config": settings(model_type), "seed": 0}, tmp_path / source, print)
        models.append(load_model(tmp_path / source)[0])
    ids = torch.arange(40)[None]
    assert torch.equal(*(model(ids).logits for model in models))
    written, drawn = (dict(model.named_buffers()) for model in models)
    assert written.keys() == drawn.keys() and all(torch.equal(written[name], drawn[name]) for name in written)


@pytest.mark.parametrize("model_type", TYPES)
def test_pruning_has_something_to_tell_apart(model_type, tmp_path):
    """Layers add to the residual stream without drowning it, and heads and channels differ in scale."""
    fetch({"source": "drawn", "config": settings(model_type), "seed": 0}, tmp_path, print)
    model, _ = load_model(tmp_path)
    architecture, walk = architecture_of(model), LayerWalk(model, 40)
    with torch.no_grad():
        hidden = walk.embed(torch.arange(40)[None])
        for index, layer in enumerate(walk.layers):
            following = walk.run(index, hidden)
            added = (following - hidden).norm() / hidden.norm()
            assert 0.05 < added < 20
            hidden = following
            shape = layer_shape(layer, architecture)
            for kind, least in (("heads", 1.2), ("channels", 4)):
                member = architecture.kind(kind).members[0]
                rows = linear_at(layer, member.module).weight[shape.span(architecture.kind(kind), member)]
                norms = rows.view(shape.counts[kind], -1).norm(dim=1)
                assert norms.max() / norms.min() > least


def test_which_models_can_have_random_weights():
    entry = resolve("llama-7b").with_random_weights()
    assert entry.source == Drawn(CATALOGUE["llama-7b"].config) and entry.dtype == "bfloat16"
    assert recipe(entry)["source"] == "drawn"
    assert resolve("tiny").with_random_weights() == resolve("tiny")
    with pytest.raises(UserError, match=r"'someone/model' need its config.*known"):
        resolve("someone/model").with_random_weights()
