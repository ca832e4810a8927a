"""Zero-shot scores of a task, through lm-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from reproducer.data.sizes import task_size
from reproducer.data.tasks import Task, TaskSpec, resolve_task
from reproducer.facts import Facts
from reproducer.queue import Artifact, Context
from reproducer.spec import Count, Listed, Section, Spec
from reproducer.stages.base import Measure, State, named, slug, write_result
from reproducer.stages.results import Column, Item, TaskScores, TaskUse

if TYPE_CHECKING:
    from reproducer.stages.cost import Cost, ModelCost


class ZeroShot(Measure):
    """A task's scores without examples in the prompt. `identity` is what determines the task and its rows."""

    kind: ClassVar[str] = "zeroshot"
    version: ClassVar[int] = 2
    rank: ClassVar[int] = 10

    task: TaskSpec
    identity: dict[str, Any]
    limit: int | None

    class Keys(Section):
        """`limit`: the first so many items of each task; None: all."""

        tasks: Listed[TaskSpec] = Field(default_factory=list)
        limit: Count | None = None

    class Result(Facts):
        shown: str
        scores: dict[str, float]
        stderr: dict[str, float]
        higher_is_better: dict[str, bool]
        items: list[Item]

    @classmethod
    def stages_for(cls, evaluate: Any, spec: Spec, state: State) -> Sequence[Self]:
        stages = []
        for index, entry in enumerate(evaluate.tasks):
            task: Task = named(spec, ("evaluate", "tasks", index), partial(resolve_task, entry))
            stages.append(
                cls(
                    **state.fields,
                    task=entry,
                    identity=task.identity(),
                    limit=evaluate.limit,
                    label=f"{state.label}: {entry.name}",
                )
            )
        return stages

    @property
    def found(self) -> Task:
        """The task that the entry stands for."""
        return resolve_task(self.task)

    @property
    def role(self) -> str:
        task = self.found
        return f"{slug(task.name)}_{'acc' if task.is_accuracy else slug(task.metric)}"

    def columns(self) -> Sequence[Column]:
        task = self.found
        return [
            Column(
                key=self.role,
                label=task.label,
                kind="accuracy" if task.is_accuracy else "other",
                source=task.name,
                score=task.metric,
                higher_is_better=task.higher_is_better,
            )
        ]

    def facts(self, result: Any, device: str | None) -> Mapping[str, Any]:
        scores = TaskScores(items=len(result.items), shown=result.shown, scores=result.scores, stderr=result.stderr)
        return {
            "metrics": {self.role: result.scores[result.shown]},
            "task_scores": {self.task.name: scores},
            "items": {self.task.name: result.items},
        }

    def use(self, artifact: Artifact | None) -> TaskUse:
        """What results.json says of the task."""
        task = self.found
        items = len(self.read(artifact.directory).items) if artifact else None
        return TaskUse(name=task.name, label=task.label, limit=self.limit, metric=task.metric, items=items)

    def fingerprints(self, device: str) -> dict[str, str]:
        return self.found.fingerprints()

    def run(self, context: Context) -> None:
        from reproducer.evaluation.zeroshot import zeroshot

        model, tokenizer = self.load(context)
        progress = partial(context.progress, text=self.task.name)
        found = zeroshot(model, tokenizer, self.found, self.limit, progress=progress)
        write_result(context, self.Result.model_validate(asdict(found)))

    def cost(self, model: ModelCost) -> Cost:
        from reproducer.models.loss import SCORED_TOKENS

        sequences, characters, scored = task_size(self.task.name, self.found.source.identity(), self.limit)
        length = model.tokens(characters)
        return model.passes(sequences * length, length, max(SCORED_TOKENS, length), "logits", scored=scored)
