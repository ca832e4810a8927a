"""What the kinds that train on instructions share: their parameters, their data and the training itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from reproducer.data.instructions import instruction_source, load_instructions
from reproducer.errors import UserError
from reproducer.recovery.registry import Job, Recovery
from reproducer.spec import Count, Name, NonEmpty, Positive, Tokens, mistake

if TYPE_CHECKING:
    from torch import nn

    from reproducer.recovery.training.examples import Phase

DATASET = "alpaca"


class InstructionTuning(Recovery):
    """Training as LLM-Pruner recovers its models.

    What is LLM-Pruner's (its `post_training.py` and the defaults of the transformers trainer that it uses):
    Alpaca's prompt format, the loss on the response only (`train_on_inputs` is off there by default), the end token
    behind a response that fits, AdamW with betas 0.9 and 0.999 and no weight decay, gradients clipped to norm 1, a
    linear schedule whose first step under a warm-up has learning rate 0. What differs: a batch's loss is the mean over
    all its response tokens (there: the mean of the micro-batches' means, which depends on how the batch is cut); no
    rows are held out, and the last weights are taken (there: the best on 2,000 rows held out).

    Attributes:
        dataset: instructions: of the catalogue, of the hub, or a .jsonl file; None: Alpaca.
        cutoff: the most tokens of an example.
        steps: ends training early, with the schedule ending there; None: the epochs decide.
        examples: takes the first rows of the data set; None: all.
    """

    dataset: Name | None = None
    learning_rate: Positive = 1e-4
    epochs: Annotated[int, Field(gt=0, le=1000)] = 2
    batch: Annotated[int, Field(gt=0, le=2**16)] = 128
    micro_batch: Annotated[int, Field(gt=0, le=2**16)] = 4
    cutoff: Tokens = 256
    warmup_steps: Annotated[int, Field(ge=0, lt=2**31)] = 100
    steps: Count | None = None
    examples: Count | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.batch % self.micro_batch:
            raise mistake(f"micro_batch {self.micro_batch} does not divide batch {self.batch}; set both to fit")
        if self.steps is not None and self.warmup_steps >= self.steps:
            raise mistake(f"a warm-up of {self.warmup_steps} steps does not end within the {self.steps} of training")
        return self

    def resolved(self, substitute: Callable[[Any, str], str]) -> Self:
        return self.model_copy(update={"dataset": self.dataset or substitute("datasets", DATASET)})

    def lengths(self) -> dict[str, int]:
        return {"cutoff": self.cutoff}

    def sources(self) -> dict[str, Any]:
        return {"dataset": instruction_source(self.dataset or DATASET).identity()}

    def fingerprints(self) -> dict[str, str]:
        name = self.dataset or DATASET
        return {name: instruction_source(name).fingerprint()}

    def before(self, job: Job) -> Sequence[Phase]:
        """What the weights are trained on before the instructions: nothing, unless a kind says otherwise."""
        return ()

    def fit(
        self, job: Job, model: nn.Module, weights: Mapping[str, nn.Parameter], save: Callable[[], None]
    ) -> list[dict[str, Any]]:
        """Trains `weights` of `model` and nothing else of it; keeps `checkpoints/` in the job's directory until then.

        A run that was killed goes on from its newest checkpoint when it is started again with the same arguments; on
        a CPU, with the same number of threads, it ends with the same bits as an unbroken run. The caller's random
        numbers go on undisturbed.

        Args:
            model: a causal language model of a declared family, such as `job.model` or what peft has put adapters
                into; its layers may have any widths, its weights any floating dtype. It is left in training mode.
            weights: by the names that checkpoints have for them.
            save: writes the result; called when training is finished.

        Returns, raises: as `train`.
        """
        from reproducer.recovery.training.examples import Phase, tokenised
        from reproducer.recovery.training.run import fine_tune

        limit = getattr(model.config, "max_position_embeddings", None)
        for key, length in self.lengths().items():
            if limit is not None and length > limit:
                raise UserError(
                    f"recovery.{key}: {length} tokens are more than the {limit} that the model can take",
                    f"set recovery.{key} to at most {limit}",
                )
        rows = load_instructions(self.dataset or DATASET, job.tokenizer, self.examples)
        examples, dropped = tokenised(rows, job.tokenizer, self.cutoff)
        steps = self._step_count(len(examples), dropped)
        if dropped:
            job.say(f"{dropped} of {len(rows)} rows are left out: a cut at {self.cutoff} tokens leaves no response")
        instructions = Phase(examples, steps, self.warmup_steps, self.epochs * len(examples))
        return fine_tune(
            job,
            model,
            weights,
            [*self.before(job), instructions],
            save,
            learning_rate=self.learning_rate,
            batch=self.batch,
            micro_batch=self.micro_batch,
            settings=self.model_dump_json(exclude={"dataset", "examples", "text"}),  # examples themselves are compared
        )

    def _step_count(self, examples: int, dropped: int) -> int:
        if not examples:
            raise UserError(
                f"recovery.cutoff: {self.cutoff} tokens leave nothing of the response in any of {dropped} rows",
                "set a larger recovery.cutoff",
            )
        steps = min(math.ceil(self.epochs * examples / self.batch), self.steps or math.inf)
        if self.warmup_steps >= steps:
            raise UserError(
                f"recovery.warmup_steps: a warm-up of {self.warmup_steps} steps does not end within the {steps} "
                f"steps of training ({examples} rows, {self.epochs} epochs, batches of {self.batch})",
                f"set recovery.warmup_steps below {steps}",
            )
        return int(steps)


class LowRank(InstructionTuning):
    """Training of low-rank adapters.

    Attributes:
        targets: linear layers of the decoder layers, by name; None: all that the model's family declares, which are
            LLaMA's seven.
    """

    rank: Annotated[int, Field(gt=0, le=4096)] = 8
    alpha: Positive = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    targets: NonEmpty[Name] | None = None
