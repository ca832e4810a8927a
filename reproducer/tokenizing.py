"""The special tokens that a tokenizer puts around a text by itself. Used by folders that import no models."""

from __future__ import annotations

import copy
from typing import Any


def specials(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that a tokenizer puts before a text, and those that it puts behind it."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return list(whole[:start]), list(whole[start + len(plain) :])
    return [], []


def opened(tokenizer: Any) -> Any:
    """The tokenizer without what it puts behind a text: for a text that goes on, by an answer or a generation.

    With `<s> $A </s>` a window would hold an end that is none, a prompt would be over before its answer, and lm-eval,
    which takes an answer's tokens from where the prompt's end, would drop its first one.
    """
    before, behind = specials(tokenizer)
    if not behind:
        return tokenizer
    from tokenizers import processors

    tokenizer = copy.deepcopy(tokenizer)
    if not getattr(tokenizer, "is_fast", False):
        tokenizer.add_eos_token = False
        return tokenizer
    names = [str(name) for name in tokenizer.convert_ids_to_tokens(before)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*names, "$A"],
        pair=[*names, "$A", "$B:1"],
        special_tokens=list(dict(zip(names, before, strict=True)).items()),
    )
    return tokenizer
