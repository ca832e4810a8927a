"""The rows of a table, and which stages each needs: a spec expanded, with nothing read or loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from reproducer.data.tasks import TASKS
from reproducer.methods.registry import Method, methods
from reproducer.models.catalogue import Entry, resolve
from reproducer.queue import Stage, topological
from reproducer.spec import Spec
from reproducer.spec.models import MethodSpec
from reproducer.spec.sections import RecoverySpec, TransferSpec
from reproducer.stages import names, recipes


@dataclass(frozen=True)
class Metric:
    """A column of the table.

    Attributes:
        key: in results.json, such as `wikitext2_ppl` or `boolq_acc`.
        source: the data set or task it is measured on.
        role: of the stage behind it in a row; the metrics of kind "other" all come from one.
    """

    key: str
    label: str
    kind: Literal["perplexity", "accuracy", "other"]
    source: str
    higher_is_better: bool = False

    @property
    def role(self) -> str:
        return "efficiency" if self.kind == "other" else self.key


TIMED = ("latency_seconds", "tokens_per_second")  # never twice the same
EFFICIENCY = (
    Metric("params_billion", "Parameters (B)", "other", "efficiency"),
    Metric("macs_giga", "MACs (G)", "other", "efficiency"),
    Metric("memory_mib", "Memory (MiB)", "other", "efficiency"),
    Metric("latency_seconds", "Latency (s)", "other", "efficiency"),
    Metric("tokens_per_second", "Tokens/s", "other", "efficiency", higher_is_better=True),
)


@dataclass(frozen=True)
class Row:
    """One row: what it is, and the stages behind it by role.

    Roles are `model`, `search` or `transfer`, `plan`, `adapter`, and those of the metrics.
    """

    model: str
    method: str
    label: str
    ratio: float | None
    structure_ratio: float | None
    recovery: str
    seed: int
    stages: dict[str, Stage] = field(default_factory=dict)


@dataclass(frozen=True)
class Expansion:
    """A spec's rows and columns."""

    rows: list[Row]
    metrics: list[Metric]

    @property
    def stages(self) -> list[Stage]:
        """Every stage once, inputs before what needs them."""
        return topological(stage for row in self.rows for stage in row.stages.values())


def expand(spec: Spec) -> Expansion:
    """All rows and stages of a spec: the same spec always gives the same stages with the same keys.

    Raises:
        SpecError: a name of the spec is unknown; tells the file, the line and the nearest right name.
    """
    names.check(spec)
    metrics = list(_metrics(spec))
    rows: list[Row] = []
    for index in range(len(spec.models)):
        entry, model = base_model(spec, index)
        rows.append(_measured(spec, _dense(spec, index, model), metrics, recipes.Made(model, entry.dtype)))
        for pruned in _ratios(spec, index):
            for recovery in spec.recovery:
                for method_spec in spec.methods:
                    if method_spec.name == "dense":
                        continue
                    for seed in spec.seeds:
                        rows.append(_row(spec, index, entry, model, method_spec, pruned, recovery, seed, metrics))
    return Expansion(rows, metrics)


def base_model(spec: Spec, index: int) -> tuple[Entry, Stage]:
    """A spec's model before it is pruned: its catalogue entry, and the stage that provides it."""
    entry = names.entry(spec, index)
    stage, given = recipes.model_stage(entry), spec.models[index]
    return entry, stage if given.base is None else recipes.derived_stage(given, stage, entry.dtype)


def _metrics(spec: Spec) -> Iterator[Metric]:
    for name in spec.evaluate.perplexity:
        yield Metric(f"{names.slug(name)}_ppl", names.text_label(name), "perplexity", name)
    for name in spec.evaluate.tasks:
        yield Metric(f"{name}_acc", TASKS[name].label, "accuracy", name, higher_is_better=True)
    if spec.evaluate.efficiency is not None:
        yield from EFFICIENCY


def _ratios(spec: Spec, index: int) -> list[dict[str, float]]:
    """Each cut requested of a model, as the one of `ratio` and `structure_ratio` that the spec gives."""
    section = MethodSpec(name="dense").prune_for(spec, spec.models[index])
    key = "ratio" if section.ratio is not None else "structure_ratio"
    return [{key: value} for value in getattr(section, key)]


def _dense(spec: Spec, index: int, model: Stage) -> Row:
    given = spec.models[index]
    label = given.label or (given.name if given.base else names.entry(spec, index).label)
    return Row(names.model_name(spec, index), "dense", label, 0.0, None, "none", spec.seeds[0], {"model": model})


def _row(
    spec: Spec,
    index: int,
    entry: Entry,
    model: Stage,
    method_spec: MethodSpec,
    pruned: dict[str, float],
    recovery: RecoverySpec,
    seed: int,
    metrics: list[Metric],
) -> Row:
    method: Method = methods()[method_spec.name]
    cut: dict[str, Any] = {
        **method_spec.prune_for(spec, spec.models[index]).model_dump(mode="json", exclude={"ratio", "structure_ratio"}),
        **(_own_ratio(method_spec) or pruned),
    }
    stages = {"model": model}
    made = recipes.Made(model, entry.dtype)
    transfer = method_spec.search_for(spec).transfer if method.searched else None
    if transfer is not None:
        stages["transfer"] = _searched_elsewhere(spec, transfer, method_spec, made, cut, seed)
    elif method.searched:
        stages["search"] = recipes.search_stage(spec, method_spec, made, cut, seed)
    source = stages.get("transfer") or stages.get("search")
    stages["plan"] = recipes.plan_stage(spec, method_spec, method, made, cut, seed, source, transfer is not None)
    made = recipes.Made(model, entry.dtype, stages["plan"])
    if recovery.name != "none":
        stages["adapter"] = recipes.recovery_stage(recovery, made, seed)
        made = recipes.Made(model, entry.dtype, stages["plan"], stages["adapter"])
    row = Row(
        model=names.model_name(spec, index),
        method=method.name,
        label=method_spec.label or method.label,
        ratio=cut.get("ratio"),
        structure_ratio=cut.get("structure_ratio"),
        recovery=recovery.name,
        seed=seed,
        stages=stages,
    )
    return _measured(spec, row, metrics, made)


def _searched_elsewhere(
    spec: Spec, transfer: TransferSpec, method_spec: MethodSpec, made: recipes.Made, cut: dict[str, Any], seed: int
) -> Stage:
    """The search whose configuration a row takes over: the row's own settings on another model or at another ratio."""
    if transfer.model is not None:
        known = [model.name for model in spec.models]
        if transfer.model in known:
            entry, stage = base_model(spec, known.index(transfer.model))
            made = recipes.Made(stage, entry.dtype)
        else:
            entry = resolve(transfer.model).with_dtype(made.dtype)
            made = recipes.Made(recipes.model_stage(entry), entry.dtype)
    for key in ("ratio", "structure_ratio"):
        if (value := getattr(transfer, key)) is not None:
            cut = {**{name: cut[name] for name in cut if name not in ("ratio", "structure_ratio")}, key: value}
    return recipes.search_stage(spec, method_spec, made, cut, seed)


def _own_ratio(method_spec: MethodSpec) -> dict[str, float] | None:
    """A method's own single ratio, in place of the spec's list."""
    for key in ("ratio", "structure_ratio"):
        value = method_spec.prune.get(key)
        if value is not None:
            return {key: value[0] if isinstance(value, list) else value}
    return None


def _measured(spec: Spec, row: Row, metrics: list[Metric], made: recipes.Made) -> Row:
    for metric in metrics:
        if metric.kind == "perplexity":
            row.stages[metric.key] = recipes.perplexity_stage(spec.evaluate, metric.source, made)
        elif metric.kind == "accuracy":
            row.stages[metric.key] = recipes.task_stage(spec.evaluate, metric.source, made)
    if spec.evaluate.efficiency is not None:
        row.stages["efficiency"] = recipes.efficiency_stage(spec.evaluate.efficiency, made)
    for number, prompt in enumerate(spec.evaluate.generate):
        row.stages[f"generation_{number}"] = recipes.generation_stage(prompt, made)
    return row
