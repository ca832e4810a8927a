"""LoRA on instructions, as LLM-Pruner recovers its models; the rest is in `InstructionTuning`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from reproducer.recovery.instructions import InstructionTuning
from reproducer.recovery.registry import Job, register
from reproducer.spec import Name, NonEmpty, Positive


@register
class Lora(InstructionTuning):
    """An adapter in float32 on a frozen base in its own dtype (LLM-Pruner: float16 with loss scaling).

    Writes `adapter/`, peft's two files, when training is finished. The model is left as it was.

    Attributes:
        targets: linear layers of the decoder layers, by name; None: all that the model's family declares, which are
            LLaMA's seven.
    """

    name: ClassVar[str] = "lora"
    label: ClassVar[str] = "LoRA"
    source: ClassVar[str] = "Hu et al. 2022; settings of Ma et al. 2023 (LLM-Pruner)"

    rank: Annotated[int, Field(gt=0, le=4096)] = 8
    alpha: Positive = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    targets: NonEmpty[Name] | None = None

    def adapted(self, model: Any) -> Any:
        from reproducer.recovery.training.adapter import add_adapter

        return add_adapter(model, self, seed=0).get_base_model()

    def train(self, job: Job) -> list[dict[str, Any]]:
        from reproducer.recovery.training.adapter import add_adapter, save_adapter
        from reproducer.recovery.training.run import derived_seed

        for stale in ("adapter", "adapter.tmp"):
            shutil.rmtree(job.directory / stale, ignore_errors=True)
        adapted = add_adapter(job.model, self, derived_seed(job.seed, "adapter"))
        weights = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
        return self.fit(
            job, adapted.get_base_model(), weights, lambda: save_adapter(adapted, job.directory / "adapter")
        )

    def load(self, model: Any, directory: Path) -> Any:
        from reproducer.recovery.training.adapter import load_adapter

        return load_adapter(model, directory)

    def merge(self, model: Any, directory: Path) -> Any:
        from reproducer.recovery.training.adapter import merge_adapter

        return merge_adapter(model, directory)
