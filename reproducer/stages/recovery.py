"""The stage that fine-tunes a pruned model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from reproducer.data.sizes import instruction_size
from reproducer.facts import Facts
from reproducer.queue import Context
from reproducer.recovery.instructions import InstructionTuning
from reproducer.recovery.least_squares import LeastSquares
from reproducer.recovery.registry import RECOVERIES, Job, Recovery
from reproducer.recovery.two_source import TwoSource
from reproducer.registry import source_digest
from reproducer.stages.base import RESULT, Edit, ModelState, forget, named_edits, seed_text, write_result
from reproducer.stages.cost import Cost, ModelShape
from reproducer.stages.results import RecoveryUse, TrainingStep

ADAPTED = 2.5  # times the activations that a layer alone keeps: adapters keep their own, and what dropout left


class Recover(Edit):
    """What a kind of recovery learns on the (pruned) model of its inputs.

    Attributes:
        name, settings: the kind and all of its parameters.
        reads: what names its data in a key.
        source: digest of the module of a kind that is not this package's.
    """

    kind: ClassVar[str] = "recovery"
    role: ClassVar[str] = "recovery"
    resumable: ClassVar[bool] = True

    name: str
    settings: dict[str, Any]
    reads: dict[str, Any]
    source: str | None = None
    seed: int

    @classmethod
    def of(cls, name: str, recovery: Recovery, state: ModelState, seed: int) -> Recover:
        return cls(
            **state.fields,
            name=name,
            settings=recovery.model_dump(mode="json"),
            reads=recovery.sources(),
            source=source_digest(type(recovery)),
            seed=seed,
            label=f"{state.label} + {recovery.name}{seed_text(seed)}",
        )

    @property
    def how(self) -> Recovery:
        """The kind with its parameters."""
        return RECOVERIES.get(self.name).model_validate(self.settings)

    def fingerprints(self, device: str) -> dict[str, str]:
        return self.how.fingerprints()

    def apply(self, model: Any, directory: Path, merge: bool = False) -> Any:
        return self.how.apply(model, directory, merge)

    def training_steps(self, directory: Path) -> list[TrainingStep] | None:
        return self.read(directory).losses

    def run(self, context: Context) -> None:
        from reproducer.models.load import load_model

        model, tokenizer = self.load(context, merge=len(self.edits) > 1)  # earlier adapters become weights
        forget()  # the kind may change it
        job = Job(
            model,
            tokenizer,
            context.directory,
            self.seed,
            context.progress,
            context.say,
            dense=lambda device=context.device: load_model(context.inputs["model"], self.dtype, device)[0],
            layers=self._remaining_layers(context, model),
        )
        write_result(context, Trained(losses=[TrainingStep(**step) for step in self.how.train(job)]))

    def _remaining_layers(self, context: Context, model: Any) -> list[int]:
        """Which layers of the base model `model` still has."""
        left = model.config.get_text_config().num_hidden_layers
        for name, edit in named_edits(self.edits).items():
            if removed := edit.removed_layers(context.inputs[name]):
                return sorted(set(range(left + len(removed))) - set(removed))
        return list(range(left))

    def cost(self, model: ModelShape) -> Cost:
        how = self.how
        if isinstance(how, LeastSquares):
            return model.repaired(how.samples, how.length)
        if not isinstance(how, InstructionTuning):
            raise NotImplementedError
        rows, characters = instruction_size(how.dataset, how.sources()["dataset"])
        steps = math.ceil(how.epochs * min(rows, how.examples or rows) / how.batch)
        examples = how.batch * min(steps, how.steps or steps)
        length = min(how.cutoff, math.ceil(model.tokens(characters)))
        longest = model.learning(0, 0, min(how.cutoff, 4 * length), how.micro_batch)
        cost = model.learning(0, examples, length, how.micro_batch) + longest
        if isinstance(how, TwoSource):  # losses of all passages, also the dense model's
            learned = how.text_steps * how.batch
            cost += model.learning(2 * how.text_pool, learned, how.text_length, how.micro_batch)
        return replace(cost, memory=ADAPTED * cost.memory)

    def read(self, directory: Path) -> Trained:
        """What the stage left."""
        return Trained.model_validate_json((directory / RESULT).read_bytes())

    def use(self, losses: Sequence[TrainingStep]) -> RecoveryUse:
        """What results.json says of it, with the steps that were trained."""
        steps, examples = (len(losses), losses[-1].examples) if losses else (None, None)
        return RecoveryUse(name=self.name, label=self.how.label, settings=self.settings, steps=steps, examples=examples)


class Trained(Facts):
    """What a recovery leaves beside its weights."""

    losses: list[TrainingStep]
