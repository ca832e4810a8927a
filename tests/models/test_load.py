"""Loading a model folder, and every way in which a folder is not a model."""

import json
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reproducer.errors import UserError
from reproducer.models.catalogue import CATALOGUE, resolve
from reproducer.models.fetch import fetch, recipe
from reproducer.models.load import count_parameters, load_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = {}
    for name in ("tiny", "tiny-gqa"):
        folders[name] = tmp_path_factory.mktemp(name)
        fetch(recipe(resolve(name)), folders[name], print)
    return folders


@pytest.fixture
def copy(models, tmp_path):
    return Path(shutil.copytree(models["tiny"], tmp_path / "copy"))


def edit(path, **changes):
    """Change a JSON file; a value of None removes the key."""
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))


def test_loading_prints_nothing_and_draws_nothing(models, capfd):
    from transformers.utils import logging

    settings = logging.get_verbosity(), logging.is_progress_bar_enabled()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = load_model(models["tiny"])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == settings
    assert not any(module.training for module in model.modules())
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["tiny", "tiny-gqa"])
def test_the_weights_are_those_of_the_file(models, name):
    model, _ = load_model(models[name])
    stored = load_file(models[name] / "model.safetensors")
    loaded = dict(model.named_parameters())
    assert stored.keys() == loaded.keys()
    assert all(torch.equal(stored[key], loaded[key]) for key in stored)
    assert count_parameters(models[name]) == CATALOGUE[name].parameters == sum(p.numel() for p in loaded.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_dtypes(models, copy, dtype):
    wanted = getattr(torch, dtype)
    assert {p.dtype for p in load_model(models["tiny"], dtype)[0].parameters()} == {wanted}
    edit(copy / "config.json", dtype=dtype)
    assert {p.dtype for p in load_model(copy)[0].parameters()} == {wanted}


def test_without_a_dtype_in_the_config_it_is_float32(copy):
    edit(copy / "config.json", dtype=None)
    assert load_model(copy)[0].dtype == torch.float32


def test_an_unknown_dtype(models):
    with pytest.raises(UserError, match=r"unknown dtype 'bfloat'\ndid you mean 'bfloat16'"):
        load_model(models["tiny"], "bfloat")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rms_norm_eps": float("nan")}, r"config\.json: rms_norm_eps is nan"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": float("inf")}},
            r"rope_parameters\.rope_theta is inf",
        ),
        ({"model_type": "lama"}, "model_type is 'lama'"),
        ({"model_type": "bert-like", "auto_map": {"AutoModelForCausalLM": "code.Model"}}, "own code are not run"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_size": "wide"}, "cannot read it"),
        (
            {"intermediate_size": 80},
            r"18 of 57 tensors have another shape than config.json says: model.layers.0.mlp.down_proj.weight is "
            r"\(64, 160\) in model.safetensors, \(64, 80\) by config.json",
        ),
        ({"model_type": "gpt2"}, "no declaration of coupled structures for models of type 'gpt2'"),
        ({"num_hidden_layers": 7}, r"9 tensors are of the model not in its weight files: model\.layers\.6"),
    ],
)
def test_a_config_that_is_wrong(copy, changes, message):
    edit(copy / "config.json", **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_model(copy)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [('{"model_type": "llama",', "is not JSON: .*line 1"), ("[]", "holds a list")]
)
def test_a_config_that_is_none(copy, text, message):
    (copy / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_model(copy)
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model(copy)


def test_weights_that_are_missing_or_broken(copy):
    path = copy / "model.safetensors"
    whole, tensors = path.read_bytes(), load_file(path)

    gone = "model.layers.2.mlp.up_proj.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, path)
    with pytest.raises(UserError, match=f"1 tensor is of the model not in its weight files: {gone}"):
        load_model(copy)

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="weights cannot be loaded"):
        load_model(copy)

    path.unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        load_model(copy)

    torch.save(tensors, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickled form.*pytorch_model\.bin\n.*save_pretrained"):
        load_model(copy)

    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00002-of-00002.safetensors")}
    index["weight_map"][gone] = "model-00001-of-00002.safetensors"
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(tensors, copy / "model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match=r"1 of 2 weight files missing: model-00001-of-00002\.safetensors"):
        load_model(copy)
    save_file({gone: tensors[gone]}, copy / "model-00001-of-00002.safetensors")
    assert torch.equal(load_model(copy)[0].get_parameter(gone), tensors[gone])

    (copy / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="is no index of weight files"):
        load_model(copy)


def test_tensors_that_the_model_does_not_have_are_told(copy):
    path = copy / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}, path)
    with pytest.warns(UserWarning, match=r"1 tensor is in its weight files not part of the model: .*q_proj\.bias"):
        load_model(copy)
    # what old conversions of LLaMA carry and nobody needs
    save_file({**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(copy)


def test_a_folder_that_moved_away(models, tmp_path):
    (tmp_path / "location.json").write_text(json.dumps({"path": str(models["tiny"])}))
    assert load_model(tmp_path)[0].config.hidden_size == CATALOGUE["tiny"].config["hidden_size"]
    (tmp_path / "location.json").write_text(json.dumps({"path": str(tmp_path / "away")}))
    with pytest.raises(UserError, match="away is gone"):
        load_model(tmp_path)


@pytest.mark.parametrize("settings", [None, {"quant_method": "gptq", "bits": 4}, {"load_in_8bit": True}])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_the_weights_tell_whether_they_are_quantised(copy, tmp_path, settings, dtype):
    edit(copy / "config.json", quantization_config=settings)
    path = copy / "model.safetensors"
    tensors = load_file(path)
    model, _ = load_model(copy)  # a setting that is left over from before is none
    assert all(torch.equal(tensors[name], weight) for name, weight in model.named_parameters())
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].to(dtype)}, path)
    target = tmp_path / "target"
    target.mkdir()
    told = r"quantised( \(gptq, 4 bits\))?: model.layers.1.mlp.up_proj.weight is (I8|U8|F8_E4M3);"
    for read in (
        lambda: load_model(copy),
        lambda: resolve(str(copy)),
        lambda: fetch({"source": "folder", "path": str(copy)}, target, print),
    ):
        with pytest.raises(UserError, match=rf"config\.json: the weights are {told}(.|\n)*dequantize\(\)"):
            read()
    assert not list(target.iterdir())


def lora(folder, base):
    """An adapter's files, as peft leaves them beside weights that it was merged into."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(load_model(base)[0], config).save_pretrained(folder)


def test_side_files_change_nothing_of_what_is_loaded(models, copy):
    expected = load_file(copy / "model.safetensors")
    lora(copy, models["tiny"])
    (copy / "random.json").write_text("{}")
    (copy / "location.json").write_text("{}")
    save_file({"lm_head.weight": torch.zeros(3)}, copy / "consolidated.safetensors")
    with pytest.warns(UserWarning, match="without the adapter beside them"):
        model, _ = load_model(copy)
    loaded = dict(model.named_parameters())
    assert loaded.keys() == expected.keys() and all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert model.config._name_or_path == str(copy)
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "consolidated.safetensors"}}')
    with pytest.raises(UserError, match=r"has two sets of weights: model\.safetensors, and"):
        load_model(copy)


def test_an_adapter_alone_says_how_to_merge_it(models, copy, tmp_path):
    lora(tmp_path / "adapter", models["tiny"])
    lora(copy, models["tiny"])
    (copy / "model.safetensors").unlink()
    for read in (lambda: load_model(copy), lambda: resolve(str(tmp_path / "adapter"))):
        with pytest.raises(UserError, match=r"holds an adapter(.|\n)*merge_and_unload\(\)"):
            read()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_told_as_such(copy, file):
    (copy / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n")
    with pytest.raises(UserError, match=rf"{file} is a git-lfs pointer(.|\n)*git lfs pull"):
        load_model(copy)


GENERATIONS = {
    "sampling": ({"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2}, {"temperature": 0.9, "top_p": 0.6}),
    "sound": ({"temperature": 0.9, "do_sample": True, "eos_token_id": 2}, {"temperature": 0.9}),
    "what cannot be": ({"early_stopping": True, "eos_token_id": 2}, {}),
}


@pytest.mark.parametrize("name", GENERATIONS)
@pytest.mark.filterwarnings("ignore:generation settings")
def test_generation_settings_can_be_written_again(copy, tmp_path, name):
    settings, kept = GENERATIONS[name]
    (copy / "generation_config.json").write_text(json.dumps(settings))
    model, _ = load_model(copy)
    model.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again/generation_config.json").read_text())
    assert again.items() >= kept.items() and again["eos_token_id"] == 2
    assert again.keys() - {"transformers_version", "bos_token_id", "eos_token_id", "pad_token_id"} == (
        {*kept, "do_sample"} if kept else set()
    )


def test_tokens_beyond_the_embeddings_are_no_tokens(copy):
    """A fine-tuning added them and did not resize the model: padding may be any row, and text has other tokens."""
    from transformers import AutoTokenizer

    plain = load_model(copy)[1]
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "extra_special_tokens": ["<|more|>"]})
    tokenizer.save_pretrained(copy)
    edit(copy / "config.json", pad_token_id=260)
    with pytest.warns(UserWarning, match=r"2 tokens beyond the model's 259 embeddings.*<\|more\|>, \[PAD\]"):
        model, tokenizer = load_model(copy)
    text = "a [PAD] of <|more|> paper"
    assert tokenizer(text).input_ids == plain(text).input_ids
    assert tokenizer.pad_token_id == model.generation_config.pad_token_id == plain.eos_token_id
    tokenizer.save_pretrained(copy)
    assert load_model(copy)[1](text).input_ids == plain(text).input_ids


def test_a_tokenizer_that_is_missing(copy):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match=r"the tokenizer cannot be loaded: .*\n.*tokenizer\.json"):
        load_model(copy)


def test_the_padding_token(copy):
    settings = copy / "tokenizer_config.json"
    edit(settings, pad_token=None)
    assert load_model(copy)[1].pad_token == "</s>", "the end of text, where there is no unknown token"
    edit(settings, pad_token=None, unk_token="<pad>")
    model, tokenizer = load_model(copy)
    assert tokenizer.pad_token == "<pad>"
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    edit(settings, pad_token=None, unk_token=None, eos_token=None)
    with pytest.raises(UserError, match=r"no padding token(.|\n)*tokenizer_config"):
        load_model(copy)


def test_generation_stops_where_the_tokenizer_says(copy):
    edit(copy / "config.json", bos_token_id=5, eos_token_id=6, pad_token_id=-1)
    model, tokenizer = load_model(copy)
    assert (model.generation_config.bos_token_id, model.generation_config.eos_token_id) == (1, 2)
    edit(copy / "config.json", eos_token_id=[9, tokenizer.eos_token_id])
    assert load_model(copy)[0].generation_config.eos_token_id == [9, tokenizer.eos_token_id], (
        "a list that holds it stays"
    )


def test_the_first_conversions_of_llama(copy, tmp_path):
    """Their class is misspelt and their special tokens are empty; the tokens must be SentencePiece's own."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="reads tokenizer.model")
    pytest.importorskip("google.protobuf", reason="reads tokenizer.model")
    text = ["The road ran down to the river.", "She had 12 letters, and 7 of them were his."] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(tmp_path / "sp"),
        vocab_size=300,
        hard_vocab_limit=False,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (copy / "tokenizer.json").unlink()
    shutil.copy(tmp_path / "sp.model", copy / "tokenizer.model")
    empty = {"bos_token": "", "eos_token": "", "unk_token": "", "tokenizer_class": "LLaMATokenizer"}
    (copy / "tokenizer_config.json").write_text(json.dumps(empty))
    (copy / "special_tokens_map.json").write_text("{}")
    _, tokenizer = load_model(copy)
    truth = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    for line in (*text[:2], "letters  of\n\n12 roads é"):
        assert tokenizer(line)["input_ids"] == [truth.bos_id(), *truth.encode(line)]
        assert tokenizer.decode(tokenizer(line)["input_ids"], skip_special_tokens=True) == line
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (truth.eos_id(), truth.unk_id())
