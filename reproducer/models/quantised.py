"""Models whose weights are stored in fewer bits: told by their config, or by the model in memory. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproducer.errors import UserError


def refuse_quantised_folder(path: Path) -> None:
    """UserError if the config.json at `path` says that the weights are quantised; one that cannot be read does not."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    settings = config.get("quantization_config") if isinstance(config, dict) else None
    if settings is not None:
        raise UserError(
            f"{path}: the weights are quantised{_by(settings)}; what is pruned and trained here are floating-point "
            "weights, and most methods take gradients of them",
            "name the unquantised model; or have transformers write one out: "
            "AutoModelForCausalLM.from_pretrained(…).dequantize().save_pretrained(FOLDER)",
        )


def refuse_quantised(model: Any, purpose: str) -> None:
    """UserError if `model` was loaded quantised, or a weight of its linear modules holds no floating-point numbers.

    Args:
        purpose: what it cannot be used for, as the subject of "… needs".
    """
    from torch import nn

    settings = getattr(getattr(model, "config", None), "quantization_config", None)
    found = ""
    if settings is not None or any(getattr(model, name, None) for name in ("hf_quantizer", "quantization_method")):
        found = (
            f"this model is quantised{_by(settings or {'quant_method': getattr(model, 'quantization_method', None)})}"
        )
    else:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and not module.weight.is_floating_point():
                dtype = str(module.weight.dtype).removeprefix("torch.")
                found = f"{name} of this model holds its weight as {dtype}"
                break
    if found:
        raise UserError(
            f"{purpose} needs gradients of floating-point weights; {found}",
            "load the model unquantised, in bfloat16 or float32, or call its dequantize() first",
        )


def _by(settings: Any) -> str:
    """The kind of quantisation in brackets, where the settings (a mapping, or transformers' object) tell it."""
    get = settings.get if isinstance(settings, Mapping) else lambda name: getattr(settings, name, None)
    method, bits = get("quant_method"), get("bits")
    if method is None:
        return ""
    method = getattr(method, "value", method)  # an enumeration of transformers
    return f" ({method}, {bits} bits)" if bits else f" ({method})"
