"""Group-wise fine-tuning as SAAP recovers its models: weights quantised in groups, adapters that keep to the groups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from reproducer.recovery.instructions import LowRank
from reproducer.recovery.registry import Job, register


@register
class GroupWise(LowRank):
    """Linear layers are quantised in groups of their inputs and stay so; an adapter shifts whole groups.

    SAAP (Zheng et al. 2024, arXiv 2412.15127, "efficient group-wise fine-tuning") divides the columns of a weight into
    groups, quantises and adjusts each on its own and adapts with low rank, so that no quantisation afterwards costs
    accuracy. It has no public code. That is the construction of QA-LoRA (Xu et al. 2023, arXiv 2309.14717), which is
    what is built here: least and greatest weight of a group give its offset and step, and the adapter sees the sums of
    its inputs group by group, so that it can be merged into the offsets without a loss.

    What is open, and chosen here:

    * four bits and groups of 32, as in QA-LoRA's code; rounding to the nearest, where that code takes GPTQ
    * rank, alpha, dropout, instructions and schedule of LLM-Pruner's LoRA (QA-LoRA's code: rank 64, alpha 16)
    * sums by group (QA-LoRA's code: means, which rescales A), and A drawn as LoRA's is
    * embeddings and head are not quantised, and a width that is no multiple of the group has a shorter last group

    Quantised values are held in the model's own dtype: a simulation of the quantised model's accuracy, not of its
    speed or size. Writes `groupwise.safetensors` with the adapters when training is finished; the quantised weights
    follow from the model. The job's model is changed.

    Attributes:
        bits: of a quantised weight.
        group: neighbouring inputs that share a step and an offset, for each output.
        targets: linear layers that are quantised and get an adapter; None: all that the model's family declares.
    """

    name: ClassVar[str] = "groupwise"
    label: ClassVar[str] = "Group-wise"
    source: ClassVar[str] = "Zheng et al. 2024 (SAAP); Xu et al. 2023 (QA-LoRA)"

    bits: Annotated[int, Field(ge=2, le=8)] = 4
    group: Annotated[int, Field(ge=2, le=2**16)] = 32

    def train(self, job: Job) -> list[dict[str, Any]]:
        from reproducer.models.training import derived_seed
        from reproducer.recovery.training.groups import FILE, Layout, add_grouped, save_grouped

        (job.directory / FILE).unlink(missing_ok=True)
        layout, seed = Layout(self.bits, self.group, self.alpha / self.rank), derived_seed(job.seed, "adapter")
        options: dict[str, Any] = {"rank": self.rank, "dropout": self.dropout, "targets": self.targets}
        weights = add_grouped(job.model, seed, layout, **options)
        return self.fit(job, job.model, weights, lambda: save_grouped(weights, layout, job.directory))

    def apply(self, model: Any, directory: Path, merge: bool = False) -> Any:
        from reproducer.recovery.training.groups import apply_grouped

        return apply_grouped(model, directory, merge)
