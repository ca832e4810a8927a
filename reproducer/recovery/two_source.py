"""LoRAShear's recovery: LoRA on passages of a pre-training text that pruning lost most on, then on instructions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from reproducer.data.files import DataError
from reproducer.data.pool import calibration_pool
from reproducer.data.text import load_text, text_fingerprints, text_source
from reproducer.errors import UserError
from reproducer.recovery.lora import Lora
from reproducer.recovery.registry import Job, register
from reproducer.spec import Count, Name, Tokens, mistake

if TYPE_CHECKING:
    from reproducer.recovery.training.examples import Phase

TEXT = "bookcorpus"


@register
class TwoSource(Lora):
    """One LoRA adapter, trained on text and then on instructions.

    LoRAShear (Chen et al. 2023, arXiv 2310.18356, "dynamic knowledge recovery") trains first on subsets of the
    pre-training corpora, chosen by how much the pruned model is worse on them than the whole one, then on instructions.
    It has no public code. What is open, and chosen here: the subsets are passages of one text; those are taken whose
    mean next-token loss rose most over the dense model's, once and not anew while training. All tokens of a passage
    are learned. Both phases have the peak rate and the batch of `learning_rate` and `batch`, and each its own warm-up
    and decay; the optimiser's state is carried over. Numbers of passages and steps are ours.

    Writes `adapter/` as `Lora` does, and `passages.json`: the chosen passages with both losses. The first `text_steps`
    of the recorded losses are the text's.

    Attributes:
        text: to learn from first: of the catalogue, of the hub, or a file; None: BookCorpus.
        text_pool: passages that are compared, spread evenly over the text.
        text_share: of them that is learned from.
        text_length: tokens of a passage; shorter ones are left out.
        text_steps: of training on them, in batches of `batch`.
        text_warmup_steps: of these.
    """

    name: ClassVar[str] = "two-source"
    label: ClassVar[str] = "Two-source"
    source: ClassVar[str] = "Chen et al. 2023 (LoRAShear)"

    text: Name | None = None
    text_pool: Count = 4096
    text_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    text_length: Tokens = 128
    text_steps: Count = 64
    text_warmup_steps: Annotated[int, Field(ge=0, lt=2**31)] = 10

    @model_validator(mode="after")
    def _warm_in_time(self) -> Self:
        if self.text_warmup_steps >= self.text_steps:
            raise mistake(
                f"a text_warmup_steps of {self.text_warmup_steps} does not end within text_steps {self.text_steps}; "
                f"set it below"
            )
        return self

    def resolved(self, substitute: Callable[[Any, str], str]) -> Self:
        text = self.text or substitute("datasets", TEXT)
        return super().resolved(substitute).model_copy(update={"text": text})

    def lengths(self) -> dict[str, int]:
        return {**super().lengths(), "text_length": self.text_length}

    def sources(self) -> dict[str, Any]:
        return {**super().sources(), "text": text_source(self.text or TEXT, "calibration").identity()}

    def fingerprints(self) -> dict[str, str]:
        return {**super().fingerprints(), **text_fingerprints(self.text or TEXT, "calibration")}

    def before(self, job: Job) -> Sequence[Phase]:
        from reproducer.recovery.training.examples import Example, Phase
        from reproducer.recovery.training.passages import most_lost

        text = load_text(self.text or TEXT, "calibration")
        try:
            pool = calibration_pool(text, job.tokenizer, self.text_length, self.text_pool)
        except DataError as error:
            raise UserError(str(error), "set a smaller recovery.text_pool or recovery.text_length") from None
        rows = most_lost(job, pool.ids, math.ceil(self.text_share * len(pool)), pool.places)
        examples = [Example(pool.ids[row].tolist(), prompt=0) for row in rows]
        passes = self.text_steps * self.batch
        return [Phase(examples, self.text_steps, self.text_warmup_steps, passes, source="text")]
