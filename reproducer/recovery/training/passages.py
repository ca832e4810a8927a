"""Passages of a text that a pruned model lost most on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.files import read_json, write_json
from reproducer.models.architecture import family_of
from reproducer.models.loss import text_losses
from reproducer.models.memory import give_back
from reproducer.models.training import require_finite
from reproducer.models.walk import BATCH_TOKENS, frozen
from reproducer.recovery.registry import Job
from reproducer.recovery.training.run import weights_digest

FILE = "passages.json"


def most_lost(job: Job, ids: Tensor, count: int, numbers: Sequence[int]) -> list[int]:
    """Rows of `ids` whose mean next-token loss is most above the dense model's, in ascending order.

    They and both losses are left in the job's directory as `passages.json`, so that a run that goes on neither loads
    the dense model again nor chooses others.

    Args:
        ids: LongTensor [passages, length].
        count: rows to choose; of equals the first.
        numbers: what the file calls each row.

    Raises:
        UserError: the job has no dense model, or a loss is not finite.
    """
    path, digest = job.directory / FILE, hashlib.sha256(ids.numpy().tobytes())
    layers = weights_digest(family_of(job.model.config).decoder_layers(job.model))
    identity = hashlib.sha256(f"{digest.hexdigest()} {count} {layers}".encode()).hexdigest()
    if (chosen := _read(path, identity)) is not None:
        return chosen
    if job.dense is None:
        raise UserError(
            "two-source recovery compares the pruned model with the dense one, and this job has none",
            "give the Job a function that loads it: Job(…, dense=load)",
        )
    pruned = passage_losses(job.model, ids, lambda done: job.progress(0, 1, f"{done} passages, pruned model"))
    model = job.dense()
    dense = passage_losses(model, ids, lambda done: job.progress(0, 1, f"{done} passages, dense model"))
    del model
    give_back()
    lost = pruned - dense
    if not lost.any():
        job.say("the model loses nothing to the dense one on any passage: the first ones are taken")
    chosen = sorted(torch.argsort(lost, descending=True, stable=True)[:count].tolist())
    rows = [{"passage": numbers[row], "pruned": pruned[row].item(), "dense": dense[row].item()} for row in chosen]
    write_json(path, {"identity": identity, "rows": chosen, "losses": rows})
    return chosen


def passage_losses(model: nn.Module, ids: Tensor, progress: Callable[[int], None]) -> Tensor:
    """Mean next-token loss of each row of `ids`, float64 [passages]; the model is left in the mode it was in."""
    found = []
    with frozen(model), torch.no_grad():
        for part in ids.split(max(1, BATCH_TOKENS // ids.shape[1])):
            found.append(text_losses(model, part).double().mean(dim=1).cpu())
            progress(sum(map(len, found)))
    losses = torch.cat(found)
    require_finite(losses.sum().item(), "loss", "before the first step, on a passage of recovery.text")
    return losses


def _read(path: Path, identity: str) -> list[int] | None:
    """The rows that an earlier attempt chose of the same passages for the same model."""
    found = read_json(path)
    return found["rows"] if found is not None and found.get("identity") == identity else None
