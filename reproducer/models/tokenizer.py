"""Tokenizers: the one of the random models, built here, and those that come with a model's files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproducer.errors import UserError
from reproducer.models.quiet import quiet
from reproducer.models.weights import refuse_pointer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LLAMA_SPECIALS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """One token a byte of UTF-8: `<pad>` 0, `<s>` 1, `</s>` 2, then the 256 bytes. Adds no special tokens by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # the printable character that stands for each byte
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    backend = Tokenizer(models.BPE(vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, with a padding token: its own, else the unknown token, else the end of text.

    LLaMA's has none. Padding is masked out wherever we pad, so which token it is changes no result.

    Raises:
        UserError: no tokenizer files, files that transformers cannot read, or neither of the three tokens.
    """
    from transformers import AutoTokenizer, LlamaTokenizer

    for path in folder.glob("*"):
        if path.suffix in (".json", ".model", ".txt", ".jinja"):
            refuse_pointer(path)
    settings = _settings(folder)
    specials: dict[str, Any] = {name: token for name, token in LLAMA_SPECIALS.items() if settings.get(name) == ""}
    # The first conversions of LLaMA misspell the class and leave its special tokens empty. transformers then takes a
    # generic tokenizer that drops the leading space and the beginning of text.
    misspelt = settings.get("tokenizer_class") == "LLaMATokenizer"
    try:
        with quiet():
            if misspelt:
                tokenizer = LlamaTokenizer.from_pretrained(folder, add_bos_token=True, **specials)
            else:
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **specials)
    except MemoryError:
        raise
    except Exception as error:  # transformers raises whatever its parsers raise
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        hint = "a model folder needs tokenizer.json, or tokenizer.model and the packages sentencepiece and protobuf"
        raise UserError(f"{folder}: the tokenizer cannot be loaded: {reason}", hint) from error
    return _padded(tokenizer, f"{folder}: the tokenizer")


def within(tokenizer: Any, rows: int) -> Any:
    """The tokenizer without added tokens for which a model of so many embeddings has none; padding is another's then.

    Some fine-tunings add a `[PAD]` behind the vocabulary and do not resize the embeddings.
    """
    beyond = {token for token, index in tokenizer.get_added_vocab().items() if index >= rows}
    if not beyond:
        return tokenizer
    warnings.warn(
        f"the tokenizer has {len(beyond)} tokens beyond the model's {rows} embeddings, which are left out: "
        f"{', '.join(sorted(beyond)[:4])}",
        stacklevel=3,
    )
    for name in ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token", "pad_token"):
        if getattr(tokenizer, name, None) in beyond:
            setattr(tokenizer, name, None)
    tokenizer.extra_special_tokens = [token for token in tokenizer.extra_special_tokens if token not in beyond]
    if getattr(tokenizer, "is_fast", False):
        from tokenizers import Tokenizer

        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in beyond]
        state["padding"] = None
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    return _padded(tokenizer, "the tokenizer")


def _padded(tokenizer: Any, where: str) -> Any:
    """Give a tokenizer without a padding token another's; UserError: there is none that would do."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise UserError(
            f"{where} has no padding token, and no unknown or end-of-text token to take its place",
            'set "pad_token" in tokenizer_config.json',
        )
    return tokenizer


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    return settings if isinstance(settings, dict) else {}
