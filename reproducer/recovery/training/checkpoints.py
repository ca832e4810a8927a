"""Checkpoints of a training run: safetensors and JSON, written atomically, checked before they are used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save_file
from torch import Tensor

KEPT = 2  # the newest, and the one before it should the newest turn out garbled


@dataclass(frozen=True)
class Checkpoint:
    """The state behind a finished step; what random numbers come next follows from the seed and the step alone.

    Attributes:
        step: how many steps are done.
        tensors: trained weights and optimiser state by name, on the CPU.
        losses: the loss curve so far.
    """

    step: int
    tensors: dict[str, Tensor]
    losses: list[dict[str, Any]]


def write(folder: Path, checkpoint: Checkpoint, identity: str) -> None:
    """Adds a checkpoint to `folder`; all but the newest ones are removed.

    Args:
        identity: what the run is determined by; a checkpoint is only used by a run with the same.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    unfinished = folder / f"{final.name}.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tensors = unfinished / "state.safetensors"
    save_file(checkpoint.tensors, tensors)
    state = {
        "identity": identity,
        "step": checkpoint.step,
        "losses": checkpoint.losses,
        "sha256": hashlib.sha256(tensors.read_bytes()).hexdigest(),
    }
    (unfinished / "state.json").write_text(json.dumps(state), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(unfinished, final)
    for older in _finished(folder)[:-KEPT]:
        shutil.rmtree(older)


def newest(folder: Path, identity: str, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest usable checkpoint in `folder`; unusable ones are named through `say` and removed."""
    refused = 0
    for path in reversed(_finished(folder)):
        try:
            checkpoint = _read(path, identity)
        except (OSError, ValueError, KeyError) as problem:
            say(f"checkpoint {path} is not used: {problem}")
            shutil.rmtree(path)
            refused += 1
            continue
        if refused:
            say(f"fine-tuning goes on from step {checkpoint.step}")
        return checkpoint
    if refused:
        say("no usable checkpoint is left: fine-tuning starts from the beginning")
    return None


def _finished(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".tmp")


def _read(path: Path, identity: str) -> Checkpoint:
    """Raises OSError, ValueError or KeyError, each with a sentence that says what is wrong."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError("state.json is garbled") from None
    fields = {"identity", "step", "losses", "sha256"}
    if not isinstance(state, dict) or not fields <= state.keys():
        raise ValueError("state.json is garbled")
    content = (path / "state.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != state["sha256"]:
        raise ValueError("state.safetensors is garbled")
    if state["identity"] != identity:
        raise ValueError("it was made with other settings, data or weights")
    return Checkpoint(state["step"], load(content), state["losses"])
