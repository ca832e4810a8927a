"""GGUF files in real llama.cpp: losses beside torch's, tokens beside transformers', refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from reproducer import Plan
from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of
from reproducer.models.gguf import types, writer
from reproducer.models.gguf.tokenizer import PRE_TOKENIZERS
from reproducer.models.gguf.writer import write_gguf
from reproducer.models.tokenizer import byte_tokenizer
from reproducer.pruning.plan import units_of
from tests.helpers import decoder_layers, randn, subset, tiny, tokens, widths

VOCABULARY = 320
TEXT = """It's 2026: I'd bought 1234567 apples, didn't I?   Yes;\n\n\tthey'll cost 3.50 each…
Él comió piñas — «naïve» coöperation, 東京 is 京都's neighbour 🙂🙂.\r\n  def f(x):\n    return x**2 != 10"""
SHAPE: dict[str, Any] = {"heads": 4, "groups": 2, "head_dim": 16, "hidden": 64, "channels": 96, "vocab": VOCABULARY}


def trained(steps: list[Any], words: str = TEXT) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that was trained on a few lines, with these steps before its merges."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([words] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|end|>"
    )
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def smollm() -> PreTrainedTokenizerFast:
    return trained([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])


def by_regex(name: str) -> PreTrainedTokenizerFast:
    regex = Regex(PRE_TOKENIZERS[name][0]["pattern"]["Regex"])
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return trained([pre_tokenizers.Split(regex, "isolated"), byte_level])


def sentencepiece() -> LlamaTokenizer:
    """LLaMA's kind: characters and their merges, bytes for all others, a space before the text."""
    letters = sorted({letter for letter in TEXT.replace(" ", "▁") if letter not in "\t\r\n東京都🙂"})
    joined = ["▁t", "he", "▁the", "ap", "app", "le", "apple", "▁app", "▁▁", "re", "ret", "12", "id", "▁i", "▁apple"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *joined]
    splits = [(name[:place], name[place:]) for name in joined for place in range(1, len(name))]
    pairs = [pair for pair in splits if set(pair) <= set(names)]
    vocabulary = {name: index for index, name in enumerate(names)}
    return LlamaTokenizer(vocab=vocabulary, merges=pairs, add_bos_token=True)


def with_state(tokenizer: Any, change: Any, fewer: bool = False) -> Any:
    """The tokenizer with what `change` does to its tokenizer.json; with fewer merges than its tokens need."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if fewer:
        state["model"]["merges"] = state["model"]["merges"][:3]
    change(state)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        chat_template=tokenizer.chat_template,
        **{f"{name}_token": getattr(tokenizer, f"{name}_token") for name in ("bos", "eos", "unk")},
    )


def legacy(state: dict[str, Any]) -> None:
    """LLaMA's own way with spaces: one before each part of a text."""
    prepend = {"type": "Prepend", "prepend": "▁"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    state |= {"normalizer": {"type": "Sequence", "normalizers": [prepend, replace]}, "pre_tokenizer": None}


def bare(state: dict[str, Any]) -> None:
    legacy(state)
    state["normalizer"] = state["normalizer"]["normalizers"][1]


def ignoring(state: dict[str, Any]) -> None:
    state["model"]["ignore_merges"] = True


def closing(state: dict[str, Any]) -> None:
    start, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<|im_start|>", "<|im_end|>"))
    template = [start, {"Sequence": {"id": "A", "type_id": 0}}, end]
    ids = {name: {"id": name, "ids": [at], "tokens": [name]} for at, name in ((1, "<|im_start|>"), (2, "<|im_end|>"))}
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": template,
        "pair": template,
        "special_tokens": ids,
    }


def several_templates() -> Any:
    tokenizer = smollm()
    tokenizer.chat_template = {"tools": "{{ tools }}", "default": tokenizer.chat_template}
    return tokenizer


def with_added() -> Any:
    tokenizer = smollm()
    tokenizer.add_tokens([AddedToken("é-<tool>", normalized=False), AddedToken("co", normalized=True)])
    return tokenizer


# Exact for any text.
HOSTILE = {
    "several templates": several_templates,
    "merges ignored": lambda: with_state(by_regex("llama-bpe"), ignoring, fewer=True),
    "merges kept": lambda: with_state(by_regex("llama-bpe"), lambda state: None, fewer=True),
    "merges ignored in vain": lambda: with_state(by_regex("qwen2"), ignoring),
    "tokens around a text": lambda: with_state(smollm(), closing),
    "added tokens": with_added,
    "LLaMA, legacy": lambda: with_state(sentencepiece(), legacy),
    "LLaMA, no space before": lambda: with_state(sentencepiece(), bare),
}
TEXTS = (
    " leading and trailing ",
    "it <|im_end|>\n<|im_start|>user\n the</s>the apple<s>",
    "aé-<tool> co é-<tool>coé",
    "\u200b\t\t \u00a0\n\n\n 1234567 \ufeff🙂\u0301",
    "e\u0301 ﬁ １２ Ⅳ <unk> [PAD7] <0x41>",
)


TOKENIZERS = {
    "smollm": smollm,
    "gpt-2": lambda: trained([pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama-bpe": lambda: by_regex("llama-bpe"),
    "qwen2": lambda: by_regex("qwen2"),
    "sentencepiece": sentencepiece,
    "bytes": byte_tokenizer,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    smollm().save_pretrained(path)
    return path


@pytest.fixture
def llama_cpp():
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
    from reproducer.evaluation.llama_cpp import LlamaCpp

    return LlamaCpp


def random_plan(model: Any, even: bool) -> Plan:
    """One group and some channels of each layer; with biases that are not small, as FLAP adds them."""
    plan = Plan(units_of(model, architecture_of(model)), {})
    generator = np.random.default_rng(1)
    for index in range(len(decoder_layers(model))):
        channels = 61 if even else 40 + 7 * index
        plan.kept_heads[index] = [index % 2] if even or index else [0, 1]
        plan.kept_channels[index] = subset(96, channels, generator)
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            plan.tensors[f"model.layers.{index}.{name}.bias"] = randn(64, seed=generator)
    return plan


def uneven() -> Any:
    model = tiny(**SHAPE, tied=True)
    return random_plan(model, even=False).apply(model)


def even() -> Any:
    model = tiny(**SHAPE)
    return random_plan(model, even=True).apply(model)


def shallower() -> Any:
    model = tiny(**SHAPE, layers=4)
    return Plan(units_of(model, architecture_of(model)), {}, removed_layers=[1, 2]).apply(model)


LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODELS = {
    "tied": lambda: tiny(**SHAPE, tied=True),
    "untied": lambda: tiny(**SHAPE),
    "biases": lambda: tiny(**SHAPE, attention_bias=True, mlp_bias=True),
    "qwen2": lambda: tiny("qwen2", **SHAPE, tied=True),
    "mistral": lambda: tiny("mistral", **SHAPE, sliding_window=48),
    "frequencies": lambda: tiny(**SHAPE, rope_parameters={**LLAMA3, "original_max_position_embeddings": 32}, seed=3),
    "linear": lambda: tiny(**SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
    "wide heads": lambda: tiny(**{**SHAPE, "head_dim": 32}),
    "even": even,
    "uneven": uneven,
    "shallower": shallower,
}


def expected_losses(model: Any, ids: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        chances = model(ids[None]).logits[0].double().log_softmax(-1)
    return -chances[:-1].gather(1, ids[1:, None])[:, 0].numpy()


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_what_the_model_does(name, folder, tmp_path, llama_cpp):
    """Its cache holds keys and values in float16, of 11 bits: that is all the difference there is."""
    model = MODELS[name]()
    written = write_gguf(model, folder, tmp_path / "model.gguf", "f32")
    assert written.architecture == ("deci" if name == "uneven" else "llama")
    ids = tokens(1, 24, VOCABULARY)[0]
    found = llama_cpp(tmp_path / "model.gguf", 48).losses(ids.tolist())
    expected = expected_losses(model, ids)
    assert np.abs(np.array(found) - expected).max() < 8 * 2**-11 * expected.max()


@pytest.mark.parametrize("name", ["even", "uneven"])
def test_quantised_files_compute_nearly_the_same(name, folder, tmp_path, llama_cpp):
    model = MODELS[name]()
    written = write_gguf(model, folder, tmp_path / "model.gguf", "q8_0")
    channels = [widths(model, index)[2] for index in range(len(decoder_layers(model)))]
    assert written.padded == sum(channel % 32 != 0 for channel in channels) > 0
    assert set(written.matrices) == {"q8_0"}
    ids = tokens(4, 24, VOCABULARY)
    llama = llama_cpp(tmp_path / "model.gguf", 48)
    found = np.mean([llama.losses(window.tolist()) for window in ids])
    expected = np.mean([expected_losses(model, window) for window in ids])
    assert found == pytest.approx(expected, rel=0.01)
    assert all(rate > 0 for rate in llama.speed(ids[0].tolist(), 4))


@pytest.mark.parametrize("kind", [kind for kind in types.TYPES if kind != "f32"])
def test_stored_weights_are_the_models_within_the_types_precision(kind, folder, tmp_path):
    if kind.endswith(("_k", "_m")):
        pytest.importorskip("xllamacpp", reason="llama.cpp's own quantizer comes with the package xllamacpp")
    model = tiny(**{**SHAPE, "hidden": 256, "heads": 8, "groups": 4, "head_dim": 32, "channels": 512}, layers=2)
    written = write_gguf(model, folder, tmp_path / "model.gguf", kind)
    # root mean square errors of evenly spread values in steps of 2^-bits of the largest of a block, generously
    errors = {"f16": 2**-11, "bf16": 2**-8, "q8_0": 0.01, "q6_k": 0.03, "q5_k": 0.06, "q4_k": 0.12}
    seen: dict[str, int] = {}
    for tensor in GGUFReader(tmp_path / "model.gguf").tensors:
        if len(tensor.shape) == 1:
            continue
        stored = tensor.tensor_type.name.lower()
        seen[stored] = seen.get(stored, 0) + 1
        original = original_of(model, tensor.name)
        values = dequantize(tensor.data, tensor.tensor_type).reshape(original.shape)
        assert np.sqrt(((values - original) ** 2).mean() / (original**2).mean()) < errors[stored], tensor.name
    assert seen == written.matrices and (kind in ("q4_k_m", "q5_k_m")) == (len(seen) == 2)


def original_of(model: Any, name: str) -> np.ndarray:
    """The weight behind a tensor of a file, queries and keys in llama.cpp's order: rows i, i + d/2 side by side."""
    if not name.startswith("blk."):
        module = {"token_embd": "model.embed_tokens", "output": "lm_head"}[name.split(".")[0]]
        return model.get_submodule(module).weight.detach().numpy()
    _, index, kind, _ = name.split(".")
    path = next(path for path, known in writer.LAYER.items() if known == kind)
    weight = decoder_layers(model)[int(index)].get_submodule(path).weight.detach().numpy()
    if kind in ("attn_q", "attn_k"):
        half = [row // 2 + 16 * (row % 2) for row in range(32)]
        weight = weight[[32 * head + row for head in range(len(weight) // 32) for row in half]]
    return weight


def served(llama: Any, path: str, **body: Any) -> Any:
    address = f"{llama._server.listening_address}/{path}"
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_llama_cpp_cuts_a_text_into_the_same_tokens(name, tmp_path, llama_cpp):
    tokenizer = TOKENIZERS[name]()
    tokenizer.save_pretrained(tmp_path)
    rows = len(tokenizer) + 3  # embeddings without a token
    write_gguf(tiny(**{**SHAPE, "vocab": rows}), tmp_path, tmp_path / "model.gguf")
    llama = llama_cpp(tmp_path / "model.gguf", 48)
    text = f"{TEXT} {TEXT[::-1]}"
    found = served(llama, "tokenize", content=text, add_special=True)["tokens"]
    assert found == tokenizer(text).input_ids
    assert served(llama, "detokenize", tokens=found)["content"].strip() == tokenizer.decode(found).strip()
    if tokenizer.chat_template:
        messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"}]
        prompt = served(llama, "apply-template", messages=messages)["prompt"]
        assert prompt == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_have_the_same_tokens(name, tmp_path, llama_cpp):
    tokenizer = HOSTILE[name]()
    tokenizer.save_pretrained(tmp_path)
    write_gguf(tiny(**{**SHAPE, "vocab": len(tokenizer) + 3}), tmp_path, tmp_path / "model.gguf")
    llama = llama_cpp(tmp_path / "model.gguf", 48)
    for text in (*TEXTS, TEXT):
        found = served(llama, "tokenize", content=text, add_special=True, parse_special=True)["tokens"]
        assert found == tokenizer(text).input_ids, text
    fields = GGUFReader(tmp_path / "model.gguf").fields
    if name == "several templates":
        assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template["default"]
        assert fields["tokenizer.chat_template.tools"].contents() == "{{ tools }}"


def stripping() -> Any:
    tokenizer = smollm()
    tokenizer.add_tokens([AddedToken("<tool>", lstrip=True)])
    return tokenizer


def around(state: dict[str, Any]) -> None:
    closing(state)
    state["post_processor"]["single"].insert(0, {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}})


UNWRITTEN = {
    "stripped": (stripping, r"the token '<tool>' is set to lstrip"),
    "merges": (lambda: with_state(by_regex("qwen2"), ignoring, fewer=True), "does not ignore merges .* 'qwen2'"),
    "around": (lambda: with_state(smollm(), around), r"puts \['<\|im_end\|>', '<\|im_start\|>'\] before a text"),
    "dropout": (lambda: with_state(smollm(), lambda state: state["model"].update(dropout=0.1)), "a dropout of 0.1"),
    "lower": (
        lambda: with_state(sentencepiece(), lambda state: state.update(normalizer={"type": "Lowercase"})),
        r"splits its text in a way",
    ),
}


@pytest.mark.parametrize("name", UNWRITTEN)
def test_what_a_file_has_no_word_for_is_refused(name, tmp_path):
    make, message = UNWRITTEN[name]
    make().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        write_gguf(tiny(**{**SHAPE, "vocab": 400}), tmp_path, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_server_that_was_asked_nothing_can_be_closed(folder, tmp_path, llama_cpp):
    """In a process of its own: one that hangs does so in compiled code, which no signal handler interrupts."""
    write_gguf(tiny(**SHAPE), folder, tmp_path / "model.gguf")
    code = "import sys, reproducer.evaluation.llama_cpp as l\nfor _ in range(20): l.LlamaCpp(sys.argv[1], 48)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "model.gguf"], check=True, timeout=60)


def test_a_token_within_a_character_has_its_loss(folder, tmp_path, llama_cpp):
    """The server tells nothing of such a token; its loss is found beside another's."""
    tokenizer = smollm()
    ids = torch.tensor(tokenizer("a €œ 𝔘b").input_ids)
    assert any("�" in tokenizer.decode([token]) for token in ids)
    model = tiny(**SHAPE)
    write_gguf(model, folder, tmp_path / "model.gguf", "f32")
    found = llama_cpp(tmp_path / "model.gguf", 48).losses(ids.tolist())
    assert found == pytest.approx(expected_losses(model, ids), abs=0.01)


def test_equal_models_give_equal_files_and_nothing_else_is_left(folder, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        write_gguf(uneven(), folder, tmp_path / name, "q8_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def test_a_full_disk_leaves_the_file_that_was_there(folder, tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"an earlier one")

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "stored", full)
    with pytest.raises(OSError, match="No space left"):
        write_gguf(tiny(**SHAPE), folder, path)
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("model.gguf", b"an earlier one")]


def changed(**more: Any) -> Any:
    model = tiny(**SHAPE)
    for name, value in more.items():
        with torch.no_grad():
            model.get_parameter(name).flatten()[0] = value
    return model


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("make", "type", "message"),
    [
        (lambda: tiny(**SHAPE), "q8_1", r"'q8_1' is no type of GGUF.*\ndid you mean 'q8_0'"),
        (lambda: tiny(**SHAPE), "Q8_0", r"'Q8_0' is no type of GGUF.*\ndid you mean 'q8_0'"),
        (lambda: tiny("qwen3", **SHAPE), "f16", r"of type 'qwen3'; written are llama, mistral, qwen2"),
        (lambda: tiny(**SHAPE, hidden_act="gelu"), "f16", r"its activation is gelu, not silu"),
        (lambda: tiny(**SHAPE, rope_parameters=DYNAMIC), "f16", r"change with the length of a text"),
        (lambda: tiny(**SHAPE, rope_parameters=YARN), "f16", r"\(rope_type yarn\) scale the attention"),
        (lambda: changed(**{"lm_head.weight": 1e5}), "f16", r"beyond float16's range\nwrite the type bf16"),
        (lambda: changed(**{"lm_head.weight": float("nan")}), "q8_0", r"output.weight holds values that are no finite"),
        (lambda: tiny(**{**SHAPE, "vocab": 300}), "f16", r"has a token 319, but the model only 300 embeddings"),
    ],
)
def test_what_llama_cpp_cannot_carry_is_told(make, type, message, folder, tmp_path):
    with pytest.raises(UserError, match=message):
        write_gguf(make(), folder, tmp_path / "model.gguf", type)
    assert not list(tmp_path.iterdir())


def test_types_that_llama_cpp_quantises_name_the_package(folder, tmp_path, monkeypatch):
    types._quantizer.cache_clear()
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    model = tiny(**{**SHAPE, "hidden": 256, "heads": 16, "groups": 8})
    with pytest.raises(UserError, match=r"own quantizer, which is not here(.|\n)*pip install xllamacpp"):
        write_gguf(model, folder, tmp_path / "model.gguf", "q4_k_m")
    assert not list(tmp_path.iterdir())
    types._quantizer.cache_clear()
