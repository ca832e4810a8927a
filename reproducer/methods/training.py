"""Steps that a method trains before it cuts: interrupted and run again, they end with the same bits."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproducer.errors import UserError
from reproducer.methods.registry import TrainingJob

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RESULT = "trained.safetensors"
CHECKPOINT_SECONDS = 60.0  # least time between two

log = logging.getLogger(__name__)


def train_steps(
    job: TrainingJob,
    state: dict[str, Tensor],
    optimizer: torch.optim.Adam,
    step: Callable[[int, Tensor], float],
    *,
    steps: int,
    batch: int,
    settings: Mapping[str, Any],
    begin: Callable[[], None] | None = None,
) -> None:
    """Take `steps` steps, and leave `state` in the job's directory (see `trained`).

    A step sees `batch` of the calibration samples: all of them in an order that follows from the seed, then all again
    in another one. Its random numbers, if it draws any, have to follow from the seed and its number.

    Args:
        job: what is trained on; its `tokens` are kept beside the state.
        state: all that differs from step to step, by name, changed in place. Trained tensors are among it.
        optimizer: of the trained ones; its moments are kept too.
        step: takes the step of a number, from 0 on, on samples [batch, length], and returns the loss in front of it.
        settings: the method's parameters; with the job they say whether a checkpoint is one of the same training.
        begin: fills `state` in front of the first step; where a checkpoint is taken up it is not called.

    Raises:
        UserError: a loss is not finite (names the step).
    """
    from reproducer.models.memory import give_back
    from reproducer.recovery.training import checkpoints

    folder, identity = job.directory / "checkpoints", _identity(job, settings)
    if _finished(job.directory, identity):
        return
    checkpoint = checkpoints.newest(folder, identity, log.warning)
    if checkpoint:
        _restore(checkpoint.tensors, job, state, optimizer)
    elif begin is not None:
        begin()
        checkpoints.write(folder, checkpoints.Checkpoint(0, _tensors(job, state, optimizer), []), identity)
    saved = time.perf_counter()
    for number in range(checkpoint.step if checkpoint else 0, steps):
        loss = step(number, job.ids[_places(len(job.ids), job.seed, number, batch)])
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {number + 1} of {steps} of the training",
                "try a smaller rate, or the model in bfloat16 or float32 if it is in float16",
            )
        give_back()
        if time.perf_counter() - saved >= CHECKPOINT_SECONDS:
            done = checkpoints.Checkpoint(number + 1, _tensors(job, state, optimizer), [])
            checkpoints.write(folder, done, identity)
            saved = time.perf_counter()
        job.progress(number + 1, steps, f"loss {loss:.3f}")
    _leave(job.directory, state, identity)
    shutil.rmtree(folder, ignore_errors=True)


def trained(directory: Path | None) -> dict[str, Tensor]:
    """The state that a finished training left."""
    from safetensors.torch import load_file

    assert directory is not None  # a method that trains is given one
    return load_file(directory / RESULT)


def _places(count: int, seed: int, number: int, batch: int) -> Tensor:
    """Which samples the step of this number sees."""
    import torch

    from reproducer.recovery.training.run import derived_seed

    def order(epoch: int) -> Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed(seed, "order", epoch)))

    first, last = number * batch, (number + 1) * batch
    epochs = range(first // count, (last - 1) // count + 1)
    return torch.cat([order(epoch) for epoch in epochs])[first - epochs[0] * count :][:batch]


def _identity(job: TrainingJob, settings: Mapping[str, Any]) -> str:
    """A digest of what determines a training, beside the model that a directory belongs to."""
    digest = hashlib.sha256(repr((sorted(settings.items()), job.layers, job.cut, job.seed)).encode())
    digest.update(job.ids.cpu().numpy().tobytes())
    return digest.hexdigest()


def _tensors(job: TrainingJob, state: Mapping[str, Tensor], optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    import torch

    tensors = {f"state/{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    for name, tensor in state.items():
        for moment, value in optimizer.state.get(tensor, {}).items():
            tensors[f"{moment}/{name}"] = value.detach().cpu().contiguous()
    tensors["tokens"] = torch.tensor([job.tokens.forward, job.tokens.backward])
    return tensors


def _restore(
    tensors: Mapping[str, Tensor], job: TrainingJob, state: Mapping[str, Tensor], optimizer: torch.optim.Adam
) -> None:
    import torch

    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors[f"state/{name}"])
            if f"step/{name}" in tensors:  # Adam counts steps on the CPU, its moments stay with the tensor
                moments = {m: torch.empty_like(tensor).copy_(tensors[f"{m}/{name}"]) for m in ("exp_avg", "exp_avg_sq")}
                optimizer.state[tensor] = {"step": tensors[f"step/{name}"], **moments}
    job.tokens.forward, job.tokens.backward = tensors["tokens"].tolist()


def _leave(directory: Path, state: Mapping[str, Tensor], identity: str) -> None:
    from safetensors.torch import save_file

    new = directory / f"{RESULT}.new"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, new, metadata={"training": identity})
    new.replace(directory / RESULT)


def _finished(directory: Path, identity: str) -> bool:
    """Whether this very training has left its result."""
    from safetensors import safe_open

    if not (directory / RESULT).exists():
        return False
    with safe_open(directory / RESULT, framework="pt") as file:
        return (file.metadata() or {}).get("training") == identity
