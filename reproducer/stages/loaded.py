"""The model that a stage works on: loaded, cut and adapted. The last one stays in memory for the next stage."""

from __future__ import annotations

from typing import Any

from reproducer.models.load import load_model
from reproducer.pruning.plan import Plan
from reproducer.queue import Context
from reproducer.recovery.adapter import load_adapter

_last: tuple[Any, Any] | None = None


def load(context: Context, device: str, *, base_only: bool = False) -> tuple[Any, Any]:
    """Model and tokenizer as the stage's inputs make them: the base, its plan applied, its adapter active.

    A model from here may be shared with a later stage, which must find it as it was.
    """
    global _last
    parts = {name: path for name, path in context.inputs.items() if name in ("model", "plan", "adapter")}
    if base_only:
        parts = {"model": parts["model"]}
    wanted = (tuple(sorted((name, str(path)) for name, path in parts.items())), context.params["dtype"], device)
    if _last is None or _last[0] != wanted:
        _last = None  # before the next is loaded: two may not fit
        model: Any
        model, tokenizer = load_model(parts["model"], context.params["dtype"], device)
        if "plan" in parts:
            Plan.load(parts["plan"] / "plan.safetensors").apply_(model)
        if "adapter" in parts:
            model = load_adapter(model, parts["adapter"])
        _last = (wanted, (model, tokenizer))
    return _last[1]


def forget() -> None:
    """Let go of the model in memory: for a stage that changes it."""
    global _last
    _last = None
