"""Measures: stages whose results stand in a row of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from reproducer.evaluation.measured import Measured
from reproducer.queue import Artifact
from reproducer.registry import Registry, source_digest
from reproducer.spec import Section, Spec
from reproducer.spec.origins import Loc
from reproducer.stages.base import RESULT, ModelState, OnModel, device_name
from reproducer.stages.results import Column


class Measure(OnModel):
    """A stage whose result stands in a row of the table.

    A kind says which keys of a spec's `evaluate` are its own (`Keys`), makes its stages of them (`stages_for`), and
    what they give: a typed result (`Result`, with the measure's section of the report), columns, and their values.

    Attributes:
        rank: where its columns stand among those of other kinds.
        of_device: the result holds for the device that it ran on alone; on another one it is measured again.
    """

    rank: ClassVar[int] = 100
    of_device: ClassVar[bool] = False
    Keys: ClassVar[type[Section]]
    Result: ClassVar[type[Measured]]

    @classmethod
    def stages_for(cls, evaluate: Any, spec: Spec, state: ModelState) -> Sequence[Self]:
        """The stages that measure a model. SpecError for an unknown name.

        Args:
            evaluate: the spec's section, with the keys of all kinds.
        """
        raise NotImplementedError

    @classmethod
    def defaults(cls, spec: Spec) -> dict[str, Any]:
        """Keys that are None where the spec does not write them, and what they then are."""
        return {}

    @classmethod
    def lengths(cls, evaluate: Any) -> Sequence[tuple[Loc, int]]:
        """Sequence lengths that a model has to take, and the key below `evaluate` that sets each."""
        return ()

    @property
    def params(self) -> dict[str, Any]:
        """With the digest of the module of a measure of the user's own."""
        source = source_digest(type(self))
        return {**super().params, **({"source": source} if source else {})}

    def fingerprints(self, device: str) -> dict[str, str]:
        return {"device": device_name(device)} if self.of_device else {}

    @property
    def role(self) -> str:
        """The result's name in a row."""
        raise NotImplementedError

    def columns(self) -> Sequence[Column]:
        """The columns that the stage fills."""
        return ()

    def metrics(self, result: Any) -> Mapping[str, float]:
        """The values of its columns, by key."""
        return {}

    def read(self, artifact: Artifact) -> Any:
        """The typed result."""
        result = self.Result.model_validate_json((Path(artifact.directory) / RESULT).read_bytes())
        device = artifact.record["fingerprints"].get("device", "") if self.of_device else None
        return result if device is None else result.model_copy(update={"device": device})


MEASURES: Registry[type[Measure]] = Registry("measure", "reproducer.stages", "reproducer.measures")


def register(kind: type[Measure]) -> type[Measure]:
    """Offer a measure. This package's have keys of `evaluate`; a spec names one of the user's own in its `measures`."""
    return MEASURES.add(kind.kind, kind)


def measures() -> list[type[Measure]]:
    """This package's measures, in the order of their columns; a module beside this one is all that one needs."""
    own = [kind for kind in MEASURES.all().values() if kind.__module__.startswith("reproducer.stages.")]
    return sorted(own, key=lambda kind: (kind.rank, kind.kind))
