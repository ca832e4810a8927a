"""What has become of a list of stages."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from reproducer.errors import UserError
from reproducer.queue.artifact import Artifact
from reproducer.queue.stage import Stage, topological
from reproducer.queue.store import Store

Status = Literal["done", "cached", "failed", "blocked", "missing"]


@dataclass(frozen=True)
class Result:
    """One stage: `done` in this run, `cached` from before, `failed`, `blocked` by an input's failure, or `missing`.

    `message` says why for the last three; its first line is enough for a table cell. `missing` comes only from
    `survey`.
    """

    stage: Stage
    status: Status
    message: str = ""
    artifact: Artifact | None = None

    @property
    def seconds(self) -> float | None:
        """What the stage took when it ran; None without an artifact."""
        return self.artifact.seconds if self.artifact else None

    @property
    def peak_memory_bytes(self) -> int | None:
        """Its memory, see `Artifact`; None without an artifact."""
        return self.artifact.peak_memory_bytes if self.artifact else None


@dataclass(frozen=True)
class Outcome:
    """The result of every stage by key, inputs included, in the order in which they run."""

    results: dict[str, Result] = field(default_factory=dict)

    def __getitem__(self, stage: Stage | str) -> Result:
        return self.results[stage if isinstance(stage, str) else stage.key]

    @property
    def ok(self) -> bool:
        """Whether every stage has an artifact."""
        return all(result.artifact for result in self.results.values())

    @property
    def counts(self) -> Counter[str]:
        """How many stages have each status."""
        return Counter(result.status for result in self.results.values())


def inputs_of(stage: Stage, results: Mapping[str, Result]) -> Result | dict[str, Artifact] | None:
    """The artifacts of the stage's inputs; or the stage's `blocked` result; or None: some are not settled yet."""
    artifacts: dict[str, Artifact] = {}
    for name, needed in stage.inputs.items():
        result = results.get(needed.key)
        if result is not None and result.status in ("failed", "blocked"):
            # Name the stage that failed, not the chain of those that it has blocked.
            why = f"needs '{needed.label}', which failed" if result.status == "failed" else result.message
            return Result(stage, "blocked", why)
        if result is not None and result.artifact is not None:
            artifacts[name] = result.artifact
    return artifacts if len(artifacts) == len(stage.inputs) else None


def survey(stages: Iterable[Stage], store: Store, device: str | None = None) -> Outcome:
    """What the store has of `stages`, running and changing nothing: `cached`, `failed`, `blocked` or `missing`.

    Args:
        device: where given, today's fingerprints for it are compared too, as a run would.
    """
    results: dict[str, Result] = {}
    for stage in topological(stages):
        inputs = inputs_of(stage, results)
        if isinstance(inputs, Result):
            results[stage.key] = inputs
            continue
        state: Artifact | str | None = None
        if inputs is not None:
            try:
                today = None if device is None else stage.fingerprints(device)
                state = store.inspect(stage, inputs, today)
            except UserError as error:  # the source is gone, so nothing can vouch for the artifact
                state = str(error)
        failure = store.failure(stage)
        if isinstance(state, Artifact):
            results[stage.key] = Result(stage, "cached", artifact=state)
        elif failure:
            results[stage.key] = Result(stage, "failed", failure.message)
        else:
            results[stage.key] = Result(stage, "missing", state or "")
    return Outcome(results)
