"""Least squares: the cut projections are fitted to the dense model's residual stream, without gradients or labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field

from reproducer.data.instructions import INSTRUCTIONS, instruction_source, load_instructions
from reproducer.data.text import TEXTS, Role, Text, load_text, text_source
from reproducer.errors import UserError
from reproducer.files import replacing
from reproducer.recovery.registry import Job, Recovery, register
from reproducer.spec import Count, Name, NonEmpty, Tokens

if TYPE_CHECKING:
    from torch import Tensor

    from reproducer.data.pool import Pool
    from reproducer.models.repair import LayerRepair

TEXT = "bookcorpus"
OFFERED = 2  # passages of a text that are tokenised for each that is drawn
FILE = "layer-{:04d}.safetensors"


@register
class LeastSquares(Recovery):
    """Ridge regression at the output and down projections, layer by layer; see `reproducer.models.repair`.

    Writes `layer-NNNN.safetensors` for each layer that it changes: the new weights in the model's dtype, and how they
    were fitted. A run that was killed goes on behind the last of them.

    Attributes:
        texts: to fit on, an equal share of each: texts of the catalogue (their passages for calibration, or windows
            of their part for searches where they have none), of the hub, files, or instruction data of the catalogue;
            None: BookCorpus.
        samples, length: how many samples of how many tokens; of a smaller text all that it has.
        ridge: of all projections; None: each has the best of several on every eighth sample.
    """

    name: ClassVar[str] = "least-squares"
    label: ClassVar[str] = "Least squares"
    source: ClassVar[str] = "closed form; relatives: OSSCAR (Meng et al. 2024), SlimGPT (Ling et al. 2024)"

    texts: NonEmpty[Name] | None = None
    samples: Count = 256
    length: Tokens = 128
    ridge: Annotated[float, Field(ge=0)] | None = None

    def resolved(self, substitute: Callable[[Any, str], str]) -> Self:
        names = self.texts or [TEXT]
        return self.model_copy(update={"texts": list(dict.fromkeys(substitute("datasets", name) for name in names))})

    def lengths(self) -> dict[str, int]:
        return {"length": self.length}

    def sources(self) -> dict[str, Any]:
        return {name: _source(name).identity() for name in self.texts or [TEXT]}

    def fingerprints(self) -> dict[str, str]:
        return {name: _source(name).fingerprint() for name in self.texts or [TEXT]}

    def train(self, job: Job) -> list[dict[str, Any]]:
        from reproducer.models.repair import repair

        if job.dense is None:
            raise UserError(
                "a least-squares repair compares the pruned model with the dense one, and this job has none",
                "give the Job a function that loads it: Job(…, dense=load)",
            )
        ids = self._samples(job)
        identity = self._identity(job, ids)
        dense = job.dense("cpu")
        for result in repair(
            job.model,
            dense,
            ids,
            layers=job.layers,
            ridge=self.ridge,
            known=lambda layer: _read(job.directory / FILE.format(layer), layer, identity),
            say=job.say,
        ):
            _write(job.directory / FILE.format(result.layer), result, identity)
            total = job.model.config.num_hidden_layers
            left = sum(fit.after for fit in result.fits) / len(result.fits)
            job.progress(result.layer + 1, total, f"layer {result.layer}: {left:.3f} of the stream is missing")
        return []

    def apply(self, model: Any, directory: Path, merge: bool = False) -> Any:
        import torch
        from safetensors.torch import load_file

        files = sorted(directory.glob(FILE.replace("{:04d}", "*")))
        try:
            with torch.no_grad():
                for file in files:
                    for name, tensor in load_file(file).items():
                        model.get_parameter(name).copy_(tensor)
        except (OSError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(f"{directory} holds no repair of this model: {error}") from None
        return model.eval()

    def _samples(self, job: Job) -> Tensor:
        """[samples, length], on the CPU: fewer where a text does not have its share, and that is said."""
        import torch

        from reproducer.data.pool import apportioned

        names = self.texts or [TEXT]
        drawn = []
        for number, (name, count) in enumerate(
            zip(names, apportioned(self.samples, [1 / len(names)] * len(names)), strict=True)
        ):
            pool = self._pool(name, job.tokenizer, count)
            if len(pool) < count:
                job.say(f"{name} has {len(pool)} samples of {self.length} tokens; {count} were to be fitted to")
            # pools of equal sizes would give the same rows for the same seed
            drawn.append(pool.ids[pool.draw(min(count, len(pool)), job.seed + number * 2**32)])
        return torch.cat(drawn)

    def _pool(self, name: str, tokenizer: Any, count: int) -> Pool:
        """Passages of a text for calibration, or windows of all of it where too few passages are long enough."""
        from reproducer.data.files import DataError
        from reproducer.data.pool import calibration_pool, window_pool

        if name in INSTRUCTIONS:
            rows = ["".join(pair) for pair in load_instructions(name, tokenizer, 4 * OFFERED * count)]
            text = Text(name, "search", rows, instruction_source(name).read())
        else:
            text = load_text(name, _role(name))
        if text.role == "search":
            return window_pool(text, tokenizer, self.length)
        try:
            return calibration_pool(text, tokenizer, self.length, OFFERED * count)
        except DataError:  # it is small: all of it can be read
            return window_pool(text, tokenizer, self.length)

    def _identity(self, job: Job, ids: Tensor) -> str:
        """Of what a layer's repair follows from: an interrupted run goes on only with the same."""
        from reproducer.models.architecture import family_of
        from reproducer.recovery.training.run import weights_digest

        layers = weights_digest(family_of(job.model.config).decoder_layers(job.model))
        digest = hashlib.sha256(ids.numpy().tobytes()).hexdigest()
        return hashlib.sha256(f"{digest} {layers} {self.ridge}".encode()).hexdigest()


def _role(name: str) -> Role:
    """A text's passages for calibration; those for searches where the catalogue has it for nothing else."""
    return "search" if name in TEXTS and "calibration" not in TEXTS[name].sources else "calibration"


def _source(name: str) -> Any:
    return instruction_source(name) if name in INSTRUCTIONS else text_source(name, _role(name))


def _write(path: Path, result: LayerRepair, identity: str) -> None:
    from safetensors.torch import save_file

    # one entry: safetensors writes several in an order of its own
    header = json.dumps({"identity": identity, "fits": [vars(fit) for fit in result.fits]})
    tensors = {name: tensor.cpu().contiguous() for name, tensor in result.tensors.items()}
    with replacing(path) as part:
        save_file(tensors, part, metadata={"repair": header})


def _read(path: Path, layer: int, identity: str) -> LayerRepair | None:
    """What an earlier attempt left of the same repair."""
    from safetensors import SafetensorError, safe_open

    from reproducer.models.repair import Fit, LayerRepair

    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})["repair"])
            if header["identity"] != identity:
                return None
            fits = [Fit(**fit) for fit in header["fits"]]
            return LayerRepair(layer, {name: file.get_tensor(name) for name in file.keys()}, fits)  # noqa: SIM118
    except (OSError, ValueError, KeyError, SafetensorError):  # not there, or garbled
        return None
