"""LoRA adapters by peft: put into a model, written, loaded, merged.

peft changes the model that it is given: it replaces modules, freezes parameters and, when it merges, writes into
their memory. Here it is given a twin of the caller's model instead (`twin`), which costs no second set of weights.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reproducer.errors import UserError, nearest
from reproducer.files import replacing
from reproducer.models.architecture import architecture_of
from reproducer.models.quiet import quiet
from reproducer.models.training import seeded

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # peft's names


def twin(model: nn.Module) -> nn.Module:
    """A model of its own whose parameters, frozen, use the memory of `model`'s.

    Modules and flags of the twin are free to change; in-place writes to its weights would reach `model`.
    """
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(model, shared)


def add_adapter(
    model: nn.Module, seed: int, *, rank: int, alpha: float, dropout: float, targets: Sequence[str] | None
) -> Any:
    """A peft model around a twin of `model` with a fresh adapter; `model` itself is left as it was.

    A is random, B is 0, so that the adapter changes nothing yet. Adapter weights are float32 where the base is
    in half precision (float64 on a float64 base). Layers may have any widths: peft looks at the modules.

    Args:
        seed: of A.
        rank, alpha, dropout, targets: as `LowRank` has them.

    Raises:
        UserError: the architecture is unknown, or a target is no linear layer of its decoder layers.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=dropout,
        target_modules=target_names(model, targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return _injected(model, config, seed)


def save_adapter(adapted: Any, directory: Path) -> None:
    """Writes the adapter of a peft model in peft's own format, with nothing in it that names a machine.

    peft's `save_pretrained` is not used: it may ask the hub, and it writes the base model's path, a model card
    and the targets in an order that changes from process to process.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    config = adapted.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": None, "inference_mode": True}
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    shutil.rmtree(directory, ignore_errors=True)
    with replacing(directory) as part:
        part.mkdir(parents=True)
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        (part / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def apply_adapter(model: nn.Module, directory: Path, merge: bool = False) -> nn.Module:
    """`model` with a trained adapter, in evaluation mode; `model` itself is left as it was, and shares its memory.

    Args:
        model: the (pruned) model that the adapter was trained on.
        directory: the folder that `Lora.train` wrote to, or a folder with peft's two files.
        merge: add the adapter to the weights, for a plain model without peft in it. Targeted weights are then new and
            in the base's dtype, to which the sum is rounded: in bfloat16 that loses part of a small adapter.

    Returns:
        A model of the same class, no `PeftModel`: `model.model` and `model.lm_head` are where they were. If the
        adapter is not merged, targeted linear layers are peft's.

    Raises:
        UserError: a file is missing or garbled, or the adapter was made for other widths.
    """
    adapted = _loaded(model, directory)
    if not merge:
        return adapted.get_base_model()
    # safe_merge adds out of place; peft's default would write into the memory that the twin shares.
    merged = adapted.merge_and_unload(safe_merge=True)
    if hasattr(merged, "peft_config"):
        del merged.peft_config
    return merged.eval()


def _loaded(model: nn.Module, directory: Path) -> Any:
    from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

    folder = directory / "adapter" if (directory / "adapter").is_dir() else directory
    try:
        tensors, settings = _read(folder)
        config = LoraConfig(**settings)
    except (OSError, ValueError, TypeError) as problem:
        raise UserError(f"{folder} holds no usable adapter: {problem}") from None
    architecture_of(model)
    adapted = _injected(model, config, seed=0)
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    for name in sorted(expected.keys() | tensors.keys()):
        here, there = expected.get(name), tensors.get(name)
        if here is None or there is None or here.shape != there.shape:
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (there, here)]
            raise UserError(
                f"the adapter in {folder} does not fit this model: {name} is {shapes[0]}, the model needs {shapes[1]}",
                "an adapter goes with the base model and the pruning plan that it was trained on",
            )
    set_peft_model_state_dict(adapted, tensors)
    return adapted.eval()


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as problem:
        raise ValueError(f"{WEIGHTS} is garbled ({problem})") from None
    settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise ValueError(f"{CONFIG} is garbled")
    return tensors, settings


def _injected(model: nn.Module, config: Any, seed: int) -> Any:
    from peft import get_peft_model

    with quiet(), seeded(seed, next(model.parameters()).device):
        return get_peft_model(twin(model), config)


def target_names(model: nn.Module, targets: Sequence[str] | None) -> list[str]:
    """Names of the linear modules of decoder layers that get adapters, sorted; None: all that the family declares.

    Raises:
        UserError: the decoder layers have no linear module of a name.
    """
    architecture = architecture_of(model)
    if targets is None:
        return sorted({path.rpartition(".")[2] for path in architecture.modules()})
    names = {
        path.rpartition(".")[2]
        for layer in architecture.decoder_layers(model)
        for path, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }
    for target in targets:
        if target not in names:
            raise UserError(f"recovery.targets: the model has no linear layer '{target}'", nearest(target, names))
    return sorted(targets)
