"""The devices that a command names, and what can be done on them."""

from __future__ import annotations

from reproducer.errors import UserError
from reproducer.stages.expand import Expansion


def surveyed_device(expansion: Expansion, names: tuple[str, ...]) -> str:
    """The device whose results a survey takes: times hold for one alone, and nothing else asks for torch."""
    return devices_named(names)[0] if any(column.timed for column in expansion.columns) else "cpu"


def devices_named(names: tuple[str, ...]) -> tuple[str, ...]:
    """Devices as torch calls them; `auto` is every GPU, or the processor. UserError for one that is not there."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found: list[str] = []
    for name in names:
        if name == "auto":
            found += [f"cuda:{number}" for number in range(gpus)] if gpus > 1 else ["cuda" if gpus else "cpu"]
            continue
        if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= gpus:
            raise UserError(f"--device {name}: torch sees {gpus or 'no'} GPUs", "take cpu, or leave --device out")
        found.append(name)
    return tuple(found)
