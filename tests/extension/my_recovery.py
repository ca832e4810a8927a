"""A recovery kind as somebody may bring it: only the norms' weights learn, on instructions."""

from pathlib import Path
from typing import Any, ClassVar

from reproducer.recovery.instructions import InstructionTuning
from reproducer.recovery.registry import Job, register

FILE = "norms.safetensors"


@register
class NormTuning(InstructionTuning):
    """Changes the model's own tensors, so that the result is a plain model, merged or not."""

    name: ClassVar[str] = "norms"
    label: ClassVar[str] = "Norm tuning"
    source: ClassVar[str] = "an example"

    def train(self, job: Job) -> list[dict[str, Any]]:
        from safetensors.torch import save_file

        weights = {name: weight for name, weight in job.model.named_parameters() if "norm" in name}
        return self.fit(job, job.model, weights, lambda: save_file(weights, job.directory / FILE))

    def apply(self, model: Any, directory: Path, merge: bool = False) -> Any:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(directory / FILE), strict=False)
        return model.eval()
