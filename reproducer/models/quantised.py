"""Models whose weights are stored in fewer bits: told by the weights, whatever a config says. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproducer.errors import UserError
from reproducer.files import read_json
from reproducer.models.weights import Stored, stored_tensors

WIDE = ("F64", "F32", "F16", "BF16", "BOOL")  # safetensors' words; the last: masks


def refuse_quantised_folder(folder: Path, tensors: Mapping[str, Stored] | None = None) -> None:
    """UserError if a model folder's weights are quantised. A setting of its config.json counts where none are there.

    Args:
        tensors: what `stored_tensors` says of the folder; None: it is asked.
    """
    config = folder / "config.json"
    settings = (read_json(config) or {}).get("quantization_config")
    try:
        tensors = stored_tensors(folder) if tensors is None else tensors
    except UserError:
        description = "" if settings is None else f"quantised{_by(settings)}"
    else:
        narrow = [name for name, of in tensors.items() if of.dtype not in WIDE and _is_weight(name, len(of.shape))]
        description = f"quantised{_by(settings or {})}: {narrow[0]} is {tensors[narrow[0]].dtype}" if narrow else ""
    if description:
        raise UserError(
            f"{config}: the weights are {description}; what is pruned and trained here are floating-point weights, and "
            "most methods take gradients of them",
            "name the unquantised model; or have transformers write one out: "
            "AutoModelForCausalLM.from_pretrained(…).dequantize().save_pretrained(FOLDER)",
        )


def refuse_quantised(model: Any, purpose: str) -> None:
    """UserError if a module of `model` holds a weight in anything but 16 bits of floating point, or more.

    Args:
        purpose: what it cannot be used for, as the subject of "… needs".
    """
    for path, module in model.named_modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            wide = tensor.is_floating_point() and tensor.dtype.itemsize > 1
            packed = type(tensor.data).__module__.startswith("torchao")  # whose tensors claim to be wide
            if _is_weight(name, tensor.dim()) and (packed or (not wide and str(tensor.dtype) != "torch.bool")):
                settings = getattr(getattr(model, "config", None), "quantization_config", None) or {}
                dtype = str(tensor.dtype).removeprefix("torch.")
                raise UserError(
                    f"{purpose} needs gradients of floating-point weights; this model is quantised{_by(settings)}: "
                    f"{path}.{name} is {dtype}",
                    "load the model unquantised, in bfloat16 or float32, or call its dequantize() first",
                )


def _is_weight(name: str, dimensions: int) -> bool:
    return dimensions >= 2 and not name.endswith("bias")  # GPT-NeoX calls its mask so


def _by(settings: Any) -> str:
    """The kind of quantisation in brackets, where the settings (a mapping, or transformers' object) tell it."""
    get = settings.get if isinstance(settings, Mapping) else lambda name: getattr(settings, name, None)
    method, bits = get("quant_method"), get("bits")
    if method is None:
        return ""
    method = getattr(method, "value", method)  # an enumeration of transformers
    return f" ({method}, {bits} bits)" if bits else f" ({method})"
