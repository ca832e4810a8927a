"""The one training loop: it can be stopped behind any step, and then goes on to the same bits.

It stands among the models because methods that train before they cut and kinds of recovery both use it, and neither
of the two rooms imports the other. What a step does is its caller's business; the order of batches, checkpoints and
their checks, progress and a loss that is not finite are dealt with here.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file
from torch import Tensor

from reproducer.errors import UserError
from reproducer.files import replacing
from reproducer.models.memory import give_back
from reproducer.models.tokens import Tokens

CHECKPOINT_SECONDS = 60.0  # least time between two
KEPT_CHECKPOINTS = 2  # the newest, and the one before it should the newest turn out garbled
MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's state of a tensor beside its number of steps

Record = dict[str, Any]


def train(
    step: Callable[[int], Record],
    steps: int,
    state: Mapping[str, Tensor],
    optimizer: torch.optim.Adam,
    *,
    folder: Path,
    identity: str,
    save: Callable[[], None],
    progress: Callable[[int, int, str], None],
    say: Callable[[str], None],
    begin: Callable[[], None] | None = None,
    tokens: Tokens | None = None,
) -> list[Record]:
    """Take the steps that are not done yet, save, and remove the checkpoints.

    Args:
        step: takes the step of a number, counted from 0, and returns its record, JSON values with the `loss` in nats a
            token among them. Its random numbers have to follow from its number (and a seed) alone.
        steps: how many there are.
        state: all tensors that differ from step to step, by name, changed in place; what is trained is among them.
        optimizer: Adam or AdamW of what is trained.
        folder, identity: of checkpoints; one with another identity, which says what determines it, is not taken up.
        save: writes the result, once all steps are done.
        progress: called after each step with the steps done, all steps and the loss.
        say: called with what a person should read, such as a checkpoint that is not used.
        begin: fills `state` in front of the first step; not called where a checkpoint is taken up.
        tokens: counted by somebody else; set to what they were at the checkpoint that is taken up.

    Returns:
        The records of all steps. UserError: a loss is not finite.
    """
    tokens = tokens or Tokens()

    def write() -> None:
        counted = torch.tensor([tokens.forward, tokens.backward])
        _write(folder, Checkpoint(records, {**_tensors(state, optimizer), "tokens": counted}), identity)

    records: list[Record] = []
    if checkpoint := _newest(folder, identity, say):
        records = checkpoint.records
        _restore(checkpoint.tensors, state, optimizer)
        tokens.forward, tokens.backward = checkpoint.tensors["tokens"].tolist()
    elif begin is not None:
        begin()
        write()
    written = time.perf_counter()
    while len(records) < steps:
        record = step(len(records))
        require_finite(record["loss"], "loss", f"at step {len(records) + 1} of {steps}")
        records.append(record)
        give_back()  # batches differ in their lengths, so does what they leave on the heap
        if time.perf_counter() - written >= CHECKPOINT_SECONDS:
            write()
            written = time.perf_counter()
        progress(len(records), steps, f"loss {record['loss']:.3f}")
    save()
    shutil.rmtree(folder, ignore_errors=True)
    return records


def require_finite(value: float, what: str, where: str) -> None:
    """UserError if `value` is NaN or infinite."""
    if not math.isfinite(value):
        raise UserError(
            f"training failed: the {what} is not finite {where}",
            "try a smaller learning rate, or the model in bfloat16 or float32 if it is in float16",
        )


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A seed of its own for each purpose, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr((seed, *purpose)).encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's random numbers start at `seed` inside; the caller's go on undisturbed afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def batch_rows(count: int, step: int, size: int, seed: int, source: str = "", passes: float = math.inf) -> list[int]:
    """Which of `count` rows a step sees: all of them once in an order that follows from the seed, then all again.

    Args:
        step: counted from 0.
        size: rows a batch.
        source: joins the seed of the order.
        passes: rows that are passed in all; the last batches may be smaller or empty.
    """
    places = range(step * size, int(min((step + 1) * size, passes)))
    return [_order(count, seed, source, place // count)[place % count] for place in places]


@lru_cache(maxsize=4)
def _order(count: int, seed: int, source: str, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", *filter(None, [source]), epoch))
    return torch.randperm(count, generator=generator).tolist()


@dataclass(frozen=True)
class Checkpoint:
    """The records of the steps done, and the state behind the last of them, on the CPU."""

    records: list[Record]
    tensors: dict[str, Tensor]


def _tensors(state: Mapping[str, Tensor], optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    tensors = {f"state/{name}": tensor for name, tensor in state.items()}
    for name, tensor in state.items():
        tensors |= {f"{moment}/{name}": value for moment, value in optimizer.state.get(tensor, {}).items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _restore(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], optimizer: torch.optim.Adam) -> None:
    for name, tensor in state.items():
        with torch.no_grad():
            tensor.copy_(tensors[f"state/{name}"])
        if f"step/{name}" in tensors:  # Adam counts steps on the CPU, its moments stay with the tensor
            moments = {moment: torch.empty_like(tensor).copy_(tensors[f"{moment}/{name}"]) for moment in MOMENTS}
            optimizer.state[tensor] = {"step": tensors[f"step/{name}"], **moments}


def _write(folder: Path, checkpoint: Checkpoint, identity: str) -> None:
    """Add a checkpoint, whole or not at all, and remove all but the newest ones."""
    final = folder / f"step-{len(checkpoint.records):08d}"
    with replacing(final) as part:
        part.mkdir(parents=True)
        save_file(checkpoint.tensors, part / "state.safetensors")
        digest = hashlib.sha256((part / "state.safetensors").read_bytes()).hexdigest()
        text = json.dumps({"identity": identity, "records": checkpoint.records, "sha256": digest})
        (part / "state.json").write_text(text, encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
    for older in _finished(folder)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(older)


def _newest(folder: Path, identity: str, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest usable checkpoint; unusable ones are named through `say` and removed."""
    refused = 0
    for path in reversed(_finished(folder)):
        try:
            checkpoint = _read(path, identity)
        except (OSError, ValueError) as problem:
            say(f"checkpoint {path} is not used: {problem}")
            shutil.rmtree(path)
            refused += 1
            continue
        if refused:
            say(f"training goes on from step {len(checkpoint.records)}")
        return checkpoint
    if refused:
        say("no usable checkpoint is left: training starts from the beginning")
    return None


def _finished(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _read(path: Path, identity: str) -> Checkpoint:
    """Raises OSError or ValueError that says what is wrong."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        digest, made_with, records = state["sha256"], state["identity"], state["records"]
    except (ValueError, KeyError, TypeError):
        raise ValueError("state.json is garbled") from None
    content = (path / "state.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError("state.safetensors is garbled")
    if made_with != identity:
        raise ValueError("it was made with other settings, data or weights")
    return Checkpoint(records, load(content))
