"""LoRA on instructions, as LLM-Pruner recovers its models; the rest is in `InstructionTuning`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from reproducer.recovery.instructions import LowRank
from reproducer.recovery.registry import Job, register


@register
class Lora(LowRank):
    """An adapter in float32 on a frozen base in its own dtype (LLM-Pruner: float16 with loss scaling).

    Writes `adapter/`, peft's two files, when training is finished. The model is left as it was.
    """

    name: ClassVar[str] = "lora"
    label: ClassVar[str] = "LoRA"
    source: ClassVar[str] = "Hu et al. 2022; settings of Ma et al. 2023 (LLM-Pruner)"

    def train(self, job: Job) -> list[dict[str, Any]]:
        from reproducer.models.training import derived_seed
        from reproducer.recovery.training.adapter import add_adapter, save_adapter

        shutil.rmtree(job.directory / "adapter", ignore_errors=True)
        options: dict[str, Any] = self.model_dump(include={"rank", "alpha", "dropout", "targets"})
        adapted = add_adapter(job.model, derived_seed(job.seed, "adapter"), **options)
        weights = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
        return self.fit(
            job, adapted.get_base_model(), weights, lambda: save_adapter(adapted, job.directory / "adapter")
        )

    def apply(self, model: Any, directory: Path, merge: bool = False) -> Any:
        from reproducer.recovery.training.adapter import apply_adapter

        return apply_adapter(model, directory, merge)
