"""An edit of a model that is neither a plan nor an adapter: every matrix of a layer is rounded to a few bits.

A spec names it among its recoveries: `recovery: [none, {name: "my_edit:Rounding", bits: 6}]`.
"""

from pathlib import Path
from typing import Any, ClassVar

from reproducer.recovery.registry import Job, Recovery, register
from reproducer.spec import Count

FILE = "scales.safetensors"


@register
class Rounding(Recovery):
    """Round-to-nearest, with one scale a row; nothing is trained."""

    name: ClassVar[str] = "rounding"
    label: ClassVar[str] = "Rounding"
    source: ClassVar[str] = "an example"
    bits: Count = 6

    def train(self, job: Job) -> list[dict[str, Any]]:
        from safetensors.torch import save_file

        largest = 2 ** (self.bits - 1) - 1
        scales = {name: weight.abs().amax(1, keepdim=True) / largest for name, weight in matrices(job.model)}
        save_file({name: scale.detach().clone() for name, scale in scales.items()}, job.directory / FILE)
        return []

    def apply(self, model: Any, directory: Path, merge: bool = False) -> Any:
        from safetensors.torch import load_file

        scales = load_file(directory / FILE)
        for name, weight in matrices(model):
            scale = scales[name].to(weight).clamp_min(1e-12)
            weight.data = (weight.data / scale).round() * scale
        return model


def matrices(model: Any):
    """The weights of the decoder layers, by name."""
    return [(name, w) for name, w in model.named_parameters() if ".layers." in name and w.ndim == 2]
