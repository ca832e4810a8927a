"""What every measure refuses: sequences longer than the model's context, and results that are no numbers."""

from __future__ import annotations

from typing import Any

from reproducer.errors import UserError


def check_context(model: Any, tokens: int, name: str, hint: str | None = None) -> None:
    """UserError where a sequence of so many tokens, called `name`, is longer than the model's context."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and tokens > limit:
        message = f"{name} is {tokens} tokens, longer than the model's context of {limit} (max_position_embeddings)"
        raise UserError(message, hint or f"use at most {limit}")


def not_finite(problem: str, model: Any) -> UserError:
    """The error of a likelihood that is not finite, for the caller to raise."""
    hint = f"the weights hold non-finite values or overflow in {model.dtype}; try dtype: float32"
    return UserError(problem, hint)
