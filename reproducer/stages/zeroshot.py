"""Zero-shot scores of a task, through lm-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter

from reproducer.data.sizes import task_size
from reproducer.data.sources import is_path
from reproducer.data.tasks import MARGIN, TASKS, Task, TaskSpec, resolve_task
from reproducer.errors import nearest
from reproducer.evaluation.measured import TaskResult
from reproducer.queue import Artifact, Context
from reproducer.spec import Count, Listed, Name, Section, Spec
from reproducer.spec.origins import Gathered
from reproducer.stages.base import ModelState, slug, write_result
from reproducer.stages.cost import Cost, ModelShape
from reproducer.stages.measure import Measure, register
from reproducer.stages.results import Column, TaskUse

DEFAULT = "default"
_STRICT = ConfigDict(strict=True)
_ONE: TypeAdapter[int | None] = TypeAdapter(Count | None, config=_STRICT)
_EACH: TypeAdapter[dict[str, int | None]] = TypeAdapter(dict[Name, Count | None], config=_STRICT)
Limit = Annotated[
    int | dict[str, int | None] | None,
    # either alone: of a union's mistakes a reader would be told both
    PlainValidator(lambda value: (_EACH if isinstance(value, dict) else _ONE).validate_python(value)),
]


def _limits(evaluate: Any, spec: Spec) -> dict[str, int | None]:
    """The limits by tasks' names, and `DEFAULT`.

    Raises:
        SpecError: a name that is neither a task of the spec nor one that lm-eval knows.
    """
    from reproducer.data.lm_eval_tasks import task_file

    if not isinstance(evaluate.limit, dict):
        return {DEFAULT: evaluate.limit}
    own = [entry.name for entry in evaluate.tasks]
    for name in evaluate.limit:
        if name not in (DEFAULT, *own) and task_file(name) is None:
            hint = nearest(name, [DEFAULT, *own, *TASKS])
            raise spec.error(("evaluate", "limit", name), f"there is no task '{name}' to limit; {hint}")
    return {DEFAULT: None, **evaluate.limit}


@register
class ZeroShot(Measure):
    """A task's scores without examples in the prompt. `identity` is what determines the task and its rows."""

    kind: ClassVar[str] = "zeroshot"
    version: ClassVar[int] = 3
    rank: ClassVar[int] = 10
    Result: ClassVar = TaskResult

    task: TaskSpec
    identity: dict[str, Any]
    limit: int | None

    class Keys(Section):
        """`limit`: the first so many items of each task; None: all of them.

        Or a mapping of such limits by tasks' names, as they run under the spec's profiles: `default` is that of the
        others, None where it is left out. A profile may name tasks that a spec does not measure.
        """

        tasks: Listed[TaskSpec] = Field(default_factory=list)
        limit: Limit = None

    @classmethod
    def stages_for(cls, evaluate: Any, spec: Spec, state: ModelState) -> Sequence[Self]:
        limits = _limits(evaluate, spec)
        stages, wrong = [], Gathered()
        for index, entry in enumerate(evaluate.tasks):
            with wrong.part(), spec.at(("evaluate", "tasks", index)):
                task = resolve_task(entry)
                if is_path(task.source.id):
                    task.rows()  # a mistake in a file that is here is told before anything runs
                stages.append(
                    cls(
                        **state.fields,
                        task=entry,
                        identity=task.identity(),
                        limit=limits.get(entry.name, limits[DEFAULT]),
                        label=f"{state.label}: {entry.name}",
                    )
                )
        wrong.tell()
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
        shown = Column(
            key=self.role,
            label=task.label,
            kind="accuracy" if task.is_accuracy else "other",
            source=task.name,
            score=task.metric,
            higher_is_better=task.higher_is_better,
        )
        margin = Column(
            key=self._margin,
            label=f"{task.label} margin",
            kind="other",
            source=task.name,
            score=MARGIN,
            unit=task.margin_unit,
            higher_is_better=True,
        )
        return [shown, margin] if task.choices else [shown]

    @property
    def _margin(self) -> str:
        return f"{slug(self.found.name)}_margin"

    def metrics(self, result: Any) -> Mapping[str, float]:
        margin = {self._margin: result.scores[MARGIN]} if MARGIN in result.scores else {}
        return {self.role: result.scores[result.shown], **margin}

    def read(self, artifact: Artifact) -> Any:
        return super().read(artifact).model_copy(update={"task": self.task.name})

    def use(self, result: Any | None) -> TaskUse:
        """What results.json says of the task."""
        task = self.found
        use = TaskUse(name=task.name, label=task.label, limit=self.limit, metric=task.metric)
        return use.model_copy(update={"items": len(result.items), "majority": result.majority}) if result else use

    def fingerprints(self, device: str) -> dict[str, str]:
        return self.found.fingerprints()

    def run(self, context: Context) -> None:
        from reproducer.evaluation.zeroshot import zeroshot

        model, tokenizer = self.load(context)
        progress = partial(context.progress, text=self.task.name)
        found = zeroshot(model, tokenizer, self.found, self.limit, progress=progress)
        write_result(context, found)

    def cost(self, model: ModelShape) -> Cost:
        from reproducer.models.loss import SCORED_TOKENS

        sequences, characters, scored = task_size(self.task.name, self.found.source.identity(), self.limit)
        length = model.tokens(characters)
        return model.passes(sequences * length, max(SCORED_TOKENS, length), scored * SCORED_TOKENS, scored)
