"""A tokenizer as llama.cpp knows it: its tokens, and how a text is cut into them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from gguf import GGUFWriter, TokenType

from reproducer.errors import UserError
from reproducer.tokenizing import specials

Pairs = Sequence[tuple[str, ...]]

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _split(regex: str) -> list[dict[str, Any]]:
    pattern = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return [pattern, {**_BYTES, "use_regex": False}]


# How a text is split before the merges, in the terms of tokenizer.json, and what llama.cpp calls it.
PRE_TOKENIZERS: Mapping[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES],
    "llama-bpe": _split(_LLAMA3),
    "qwen2": _split(_LLAMA3.replace("{1,3}", "")),
}


def add_tokenizer(writer: GGUFWriter, tokenizer: Any, rows: int) -> None:
    """Add a tokenizer of transformers to a file.

    Args:
        rows: of the embeddings; those beyond the tokenizer's tokens get names that no text holds.

    Raises:
        UserError: llama.cpp has no tokenizer of this kind, or there are more tokens than embeddings.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError("the tokenizer has no tokenizer.json, which is what is written for llama.cpp")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    _refuse_unwritten(state)
    model, added = state["model"], {token["id"]: token["special"] for token in state["added_tokens"]}
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    if max(names) >= rows:
        raise UserError(f"the tokenizer has a token {max(names)}, but the model only {rows} embeddings")
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    add = _add_sentencepiece if model["byte_fallback"] else _add_byte_level
    tokens = [names.get(index, f"[PAD{index}]") for index in range(rows)]
    writer.add_token_list(tokens)
    add(writer, tokenizer, tokens, pairs, state)
    kinds = {index: _kind(token, model["byte_fallback"]) for index, token in names.items()}
    kinds |= {index: TokenType.CONTROL if special else TokenType.USER_DEFINED for index, special in added.items()}
    if model["byte_fallback"] and tokenizer.unk_token_id is not None:
        kinds[tokenizer.unk_token_id] = TokenType.UNKNOWN
    writer.add_token_types([kinds.get(index, TokenType.UNUSED) for index in range(rows)])
    _add_specials(writer, tokenizer)


def _add_byte_level(
    writer: GGUFWriter, tokenizer: Any, tokens: list[str], pairs: Pairs, state: Mapping[str, Any]
) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(state, bool(pairs)))
    writer.add_add_space_prefix(False)
    # llama.cpp asks for a merge: in a vocabulary of bytes alone one that no text brings about
    writer.add_token_merges([" ".join(pair) for pair in pairs or [(tokens[0], tokens[1])]])


def _add_sentencepiece(
    writer: GGUFWriter, tokenizer: Any, tokens: list[str], pairs: Pairs, state: Mapping[str, Any]
) -> None:
    """LLaMA's own: of two neighbours llama.cpp joins those first whose token has the highest score."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(pairs):
        ranks.setdefault("".join(pair), rank)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_scores([-float(ranks.get(name, 0)) for name in tokens])
    normalizer, pre = state["normalizer"], state["pre_tokenizer"] or {}
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    spaces = pre.get("type") == "Metaspace" or any(
        step["type"] == "Replace" and step["content"] == "▁" for step in steps
    )
    if (
        not spaces
        or {step["type"] for step in steps} - {"Prepend", "Replace"}
        or pre.get("type", "Metaspace") != "Metaspace"
    ):
        raise _other_splitting()
    if pre.get("prepend_scheme", "never") != "never":
        warnings.warn(
            "llama.cpp puts a space before a text that begins with one, and behind a special token, where this "
            "tokenizer does not: such texts have other tokens there",
            stacklevel=5,
        )
    writer.add_add_space_prefix(tokenizer.tokenize("a")[0].startswith("▁"))


def _refuse_unwritten(state: Mapping[str, Any]) -> None:
    """UserError for what a file of llama.cpp has no word for, and what it does otherwise."""
    model = state["model"]
    if model["type"] != "BPE":
        raise UserError(f"llama.cpp's tokenizers that are written here are of the type BPE, not {model['type']}")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UserError(f"this tokenizer has a {name} of {model[name]!r}, which llama.cpp has no word for")
    for token in state["added_tokens"]:
        for name in ("lstrip", "rstrip", "single_word"):
            if token[name]:
                raise UserError(f"the token {token['content']!r} is set to {name}, which llama.cpp has no word for")


def _needs_ignored_merges(state: Mapping[str, Any]) -> bool:
    """Whether a token of the vocabulary is found only because merges are ignored for it."""
    from tokenizers import models

    model, added = state["model"], {token["content"] for token in state["added_tokens"]}
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    merged = models.BPE(model["vocab"], pairs)  # type: ignore[arg-type]
    return any(len(merged.tokenize(token)) > 1 for token in model["vocab"] if token not in added)


def _other_splitting() -> UserError:
    return UserError(
        "this tokenizer splits its text in a way for which no name of llama.cpp's is known here",
        f"known: {', '.join(PRE_TOKENIZERS)}, and LLaMA's own, with bytes for what it does not know",
    )


def _pre_tokenizer(state: Mapping[str, Any], merges: bool) -> str:
    """llama.cpp's name for how a text is split before the merges; without merges any will do."""
    normalizer, splitter = state["normalizer"], state["pre_tokenizer"]
    steps = splitter["pretokenizers"] if splitter and splitter["type"] == "Sequence" else [splitter]
    if normalizer is not None and normalizer["type"] != "NFC":
        raise _other_splitting()
    if normalizer is not None:
        warnings.warn("llama.cpp does not compose letters and their accents (NFC) as this tokenizer does", stacklevel=5)
    ignoring = bool(state["model"].get("ignore_merges")) and _needs_ignored_merges(state)
    for name, known in PRE_TOKENIZERS.items():
        if len(steps) == len(known) and all(_like(*pair) for pair in zip(steps, known, strict=True)):
            if name == "llama-bpe":  # which ignores merges, and the other name of its splitting does not
                return name if ignoring or state["model"].get("ignore_merges") else "dbrx"
            if ignoring:
                raise UserError(
                    f"llama.cpp does not ignore merges for tokenizers of the kind '{name}', as this one does"
                )
            return name
    if not merges and steps[-1] and steps[-1]["type"] == "ByteLevel":
        return "gpt-2"
    raise _other_splitting()


def _like(step: Mapping[str, Any] | None, known: Mapping[str, Any]) -> bool:
    return step is not None and all(step.get(name) == value for name, value in known.items())


def _kind(token: str, byte_fallback: bool) -> TokenType:
    return TokenType.BYTE if byte_fallback and re.fullmatch("<0x[0-9A-F]{2}>", token) else TokenType.NORMAL


def _add_specials(writer: GGUFWriter, tokenizer: Any) -> None:
    for name in ("bos", "eos", "unk", "pad"):
        index = getattr(tokenizer, f"{name}_token_id")
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    before, behind = specials(tokenizer)
    if before not in ([], [tokenizer.bos_token_id]) or behind not in ([], [tokenizer.eos_token_id]):
        around = (
            f"{tokenizer.convert_ids_to_tokens(before)} before a text and {tokenizer.convert_ids_to_tokens(behind)}"
        )
        raise UserError(f"the tokenizer puts {around} behind it; llama.cpp has its beginning and its end alone")
    writer.add_add_bos_token(bool(before))
    writer.add_add_eos_token(bool(behind))
    templates = tokenizer.chat_template
    if isinstance(templates, Mapping):  # several by name, of which `default` is what is used unasked
        templates = [{"name": name, "template": text} for name, text in templates.items()]
    if templates:
        writer.add_chat_template(templates)
