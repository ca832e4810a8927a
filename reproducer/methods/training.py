"""Training before a cut: the steps of a method's own, on batches of the calibration samples, and what they leave."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproducer.files import replacing
from reproducer.methods.registry import Request

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RESULT = "trained.safetensors"


def train_steps(
    request: Request,
    state: dict[str, Tensor],
    optimizer: torch.optim.Adam,
    step: Callable[[int, Tensor], float],
    *,
    steps: int,
    batch: int,
    settings: Mapping[str, Any],
    begin: Callable[[], None] | None = None,
) -> None:
    """Take `steps` steps, and leave `state` in the request's directory (see `trained`).

    Args:
        request: what is asked for; its `tokens` are kept with the state.
        state, optimizer, begin: as in `models.training.train`.
        step: takes the step of a number, from 0 on, on samples [batch, length], and returns the loss in front of it.
        settings: the method's parameters; with the request they say whether a checkpoint is one of the same training.

    Raises:
        UserError: a loss is not finite (names the step).
    """
    from safetensors.torch import save_file

    from reproducer.models.training import batch_rows, train

    ids, directory = request.ids, request.directory
    assert ids is not None and directory is not None  # `prune.train` sees to both
    identity, result = _identity(request, settings), directory / RESULT
    if _finished(result, identity):
        return

    def save() -> None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        with replacing(result) as part:
            save_file(tensors, part, metadata={"training": identity})

    train(
        lambda number: {"loss": step(number, ids[batch_rows(len(ids), number, batch, request.seed)])},
        steps,
        state,
        optimizer,
        folder=directory / "checkpoints",
        identity=identity,
        save=save,
        progress=request.progress,
        say=logging.getLogger(__name__).warning,
        begin=begin,
        tokens=request.tokens,
    )


def trained(directory: Path | None) -> dict[str, Tensor]:
    """The state that a finished training left."""
    from safetensors.torch import load_file

    assert directory is not None  # there is one for every method that trains
    return load_file(directory / RESULT)


def by_layer(request: Request, state: Mapping[str, Tensor], prefix: str = "") -> dict[int, dict[str, Tensor]]:
    """{layer: {kind: [units]}} of a state's tensors `layer.kind` behind a prefix, without their gradients."""
    return {
        index: {kind: state[f"{prefix}{index}.{kind}"].detach() for kind in request.units(index)}
        for index in request.layers
    }


def _identity(request: Request, settings: Mapping[str, Any]) -> str:
    """A digest of what determines a training, beside the model that a directory belongs to."""
    digest = hashlib.sha256(repr((sorted(settings.items()), request.layers, request.cut, request.seed)).encode())
    digest.update(request.ids.cpu().numpy().tobytes() if request.ids is not None else b"")
    return digest.hexdigest()


def _finished(result: Path, identity: str) -> bool:
    """Whether this very training has left its result."""
    from safetensors import safe_open

    if not result.exists():
        return False
    with safe_open(result, framework="pt") as file:
        return (file.metadata() or {}).get("training") == identity
