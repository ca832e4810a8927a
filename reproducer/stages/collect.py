"""What the artifacts of a spec's stages say about its rows: the content of results.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from reproducer.evaluation.measured import Measured
from reproducer.queue import Artifact, Outcome, Result, Stage, describe_machine, topological
from reproducer.stages import results
from reproducer.stages.expand import Expansion, Row
from reproducer.stages.measure import Measure
from reproducer.stages.perplexity import Perplexity
from reproducer.stages.recovery import Recover
from reproducer.stages.resolve import DENSE, ResolvedModel
from reproducer.stages.search import Search
from reproducer.stages.zeroshot import ZeroShot

AVERAGE = "average_acc"


def collect(expansion: Expansion, outcome: Outcome, command: Sequence[str] = ()) -> results.Results:
    """Read every row's artifacts; a row with a stage that failed, or has not run, says so.

    Raises:
        UserError: rows that are taken over were measured on other data.
    """
    run = _Run(expansion, outcome)
    rows, earlier = _numbered([run.row(row) for row in expansion.rows], expansion.known.earlier)
    artifacts = [artifact for stage in expansion.stages if (artifact := outcome[stage].artifact)]
    read = {name: digest for artifact in artifacts for name, digest in artifact.record["fingerprints"].items()}
    read.pop("device", None)
    if earlier:
        expansion.known.check(read)
        read = {**expansion.known.sources, **read}
    return results.Results(
        spec=expansion.resolved_spec,
        profile=list(expansion.spec.profile),
        command=list(command),
        environment=earlier[-1].environment if earlier and not artifacts else _environment(artifacts),
        models=[run.model(model) for model in expansion.resolved.models],
        columns=columns_of(expansion),
        rows=rows,
        searches=list(run.searches.values()),
        **run.uses(),
        stages=run.kinds(),
        seconds=sum(artifact.seconds for artifact in artifacts),
        wall_seconds=_covered(_interval(artifact) for artifact in artifacts),
        parts=_parts(expansion),
        sources=[results.Source(name=name, digest=digest) for name, digest in sorted(read.items())],
        earlier=earlier,
    )


def settled_rows(expansion: Expansion, stage: Stage, settled: Mapping[str, Result]) -> list[results.Row]:
    """The rows that wait for nothing any more now that `stage` is settled, without their search objectives.

    Args:
        settled: results of the stages settled so far, by key.
    """
    ended = [
        row
        for row in expansion.rows
        if stage in row.stages.values() and all(other.key in settled for other in row.stages.values())
    ]
    outcome = Outcome({other.key: settled.get(other.key) or Result(other, "missing") for other in expansion.stages})
    run = _Run(expansion, outcome)
    return [run.row(row, objective=False) for row in ended]


def columns_of(expansion: Expansion) -> list[results.Column]:
    """The columns, margins behind all others; several accuracies have their average last."""
    columns = sorted(expansion.columns, key=lambda column: column.is_margin)
    shown = [index for index, column in enumerate(columns) if column.kind == "accuracy"]
    if len(shown) > 1:
        average = results.Column(key=AVERAGE, label="Average", kind="accuracy", higher_is_better=True)
        columns.insert(shown[-1] + 1, average)
    return columns


@dataclass(frozen=True)
class _Run:
    """A spec's rows, and what is known of its stages: artifacts of this run, and results of an earlier one."""

    expansion: Expansion
    outcome: Outcome

    def artifact(self, stage: Stage) -> Artifact | None:
        """None: nothing, or an earlier run stands for it."""
        result = self.outcome.results.get(stage.key)
        return result.artifact if result else None

    def measured(self, stage: Measure) -> Measured | None:
        artifact = self.artifact(stage)
        return self.expansion.known.measured(stage) if artifact is None else stage.read(artifact)

    def row(self, row: Row, objective: bool = True) -> results.Row:
        """The row with all that is known of it.

        Args:
            objective: with its search objective, for which all searches are read.
        """
        measured = {name: found for name, stage in row.measures.items() if (found := self.measured(stage))}
        open_stages = self.expansion.known.missing(row)
        ran_here = all(self.artifact(row.stages[role]) for role in (*row.making, *measured))
        earlier = None if ran_here else self.expansion.known.row(row)
        settled = [result for stage in row.stages.values() if (result := self.outcome.results.get(stage.key))]
        waiting = [result for result in settled if result.artifact is None] if open_stages else []
        failed = [result for result in waiting if result.status == "failed"] or waiting
        missing = all(result.status == "missing" for result in waiting)
        return results.Row(
            **row.facts,
            status="done" if not waiting else "missing" if missing else "failed",
            error=f"{failed[0].stage.label}: {failed[0].message or 'not run'}" if failed else None,
            stages={role: stage.key for role, stage in row.stages.items()},
            metrics=self.metrics(row, measured),
            measured=measured,
            search_objective=self.objective(row) if objective else None,
            **(self.costs(row) if earlier is None else self.earlier_costs(row, earlier)),
        )

    def metrics(self, row: Row, measured: Mapping[str, Measured]) -> dict[str, float | None]:
        """The values of all columns, None where one is not known, and the average of the accuracies."""
        values: dict[str, float | None] = {column.key: None for column in row.columns}
        for name, result in measured.items():
            values |= row.measures[name].metrics(result)
        if accuracies := _accuracies(row.columns):
            averaged = self.averaged[row.model]
            present = [value for key in averaged if (value := values.get(key)) is not None]
            complete = len(present) == len(averaged) >= min(len(accuracies), 2)
            values[AVERAGE] = sum(present) / len(present) if complete else None
        return values

    def costs(self, row: Row) -> dict[str, Any]:
        """What a row of this run left and took."""
        own = [artifact for role, stage in row.stages.items() if role != "model" and (artifact := self.artifact(stage))]
        base, plan = (self.artifact(row.stages[role]) if role in row.stages else None for role in ("model", "plan"))
        total = base.facts["parameters"] if base else None
        left = total if row.method == DENSE else plan.facts["parameters"]["left"] if plan else None
        tuning = [edit for edit in row.state.edits if not edit.cuts]
        trained = self.artifact(tuning[-1]) if tuning else None
        return {
            "params": left,
            "params_removed": None if left is None or total is None else (total - left) / total,
            "reached": results.Reached(**plan.facts["cut"]) if plan and "cut" in plan.facts else None,
            "seconds": sum(artifact.seconds for artifact in own) if own else None,
            "deciding_seconds": self.seconds(row.deciding),
            "recovery_seconds": self.seconds(tuning),
            "peak_memory_bytes": max((artifact.peak_memory_bytes for artifact in own), default=None),
            "tokens": self.tokens(row.deciding),
            "training": tuning[-1].training_steps(trained.directory) if trained else None,
        }

    def earlier_costs(self, row: Row, earlier: results.Row) -> dict[str, Any]:
        """What a row of an earlier run left and took; what single measures took is not in its file."""
        same = earlier.stages == {role: stage.key for role, stage in row.stages.items()}
        kept = ("params", "params_removed", "reached", "deciding_seconds", "recovery_seconds", "tokens", "training")
        assert self.expansion.known.results is not None
        number = len(self.expansion.known.results.earlier) if earlier.earlier is None else earlier.earlier
        return {
            **{name: getattr(earlier, name) for name in kept},
            "seconds": earlier.seconds if same else None,
            "peak_memory_bytes": earlier.peak_memory_bytes if same else None,
            "earlier": number,
        }

    def seconds(self, stages: Sequence[Stage]) -> float | None:
        """None where there is no stage, or one has not run."""
        artifacts = [artifact for stage in stages if (artifact := self.artifact(stage))]
        complete = stages and len(artifacts) == len(stages)
        return sum(artifact.seconds for artifact in artifacts) if complete else None

    def tokens(self, deciding: Sequence[Stage]) -> results.Tokens | None:
        """What deciding on the cut took; None for a dense row, and while a stage of it has not run."""
        counts = [artifact.facts.get("tokens") if (artifact := self.artifact(stage)) else None for stage in deciding]
        if not counts or None in counts:
            return None
        return results.Tokens(
            **{name: sum(count[name] for count in counts if count) for name in ("forward", "backward")}
        )

    @cached_property
    def averaged(self) -> dict[str, list[str]]:
        """By model, the accuracies that averages are over.

        Without the tasks in which the dense row is no better than always choosing the place that is right most often:
        these say nothing about pruning.
        """
        return {
            row.model: [
                column.key
                for stage in row.measures.values()
                if not self._no_better_than_majority(stage)
                for column in stage.columns()
                if column.kind == "accuracy"
            ]
            for row in self.expansion.rows
            if row.method == DENSE
        }

    def _no_better_than_majority(self, stage: Measure) -> bool:
        result: Any = self.measured(stage) if isinstance(stage, ZeroShot) else None
        return result is not None and result.majority is not None and result.scores[result.shown] <= result.majority

    def model(self, model: ResolvedModel) -> results.Model:
        dense = next(row for row in self.expansion.rows if row.method == DENSE and row.model == model.name)
        artifact, earlier = self.artifact(model.state.model), self.expansion.known.row(dense)
        stands_for = self.expansion.spec.stands_for.get(model.given.name)
        if stands_for is None and model.name not in (model.given.name, model.given.label):
            stands_for = model.given.name  # a document renamed it
        parameters = artifact.facts["parameters"] if artifact else earlier.params if earlier else model.entry.parameters
        return results.Model(**model.facts(stands_for), parameters=parameters, averaged=self.averaged[model.name])

    @cached_property
    def searches(self) -> dict[str, results.Search]:
        """Every finished search once, by its stage's key.

        `label` is that of the row that searched, where the spec has one, else that of a row which takes the
        configuration over.
        """
        found: dict[str, results.Search | None] = {}
        for role in ("search", "transfer"):
            for row in self.expansion.rows:
                stage = row.stages.get(role)
                if not isinstance(stage, Search) or found.get(stage.key):
                    continue
                model = row.model if role == "search" else stage.model.label
                search = self.expansion.known.search(stage)
                if (artifact := self.artifact(stage)) is not None:
                    search = stage.describe(artifact, model, row.label)
                found[stage.key] = search and search.model_copy(update={"model": model, "label": row.label})
        order = [stage.key for row in self.expansion.rows for stage in row.making.values() if stage.key in found]
        return {key: search for key in dict.fromkeys(order) if (search := found[key])}

    def objective(self, row: Row) -> float | None:
        """A row's search objective: its own search's, or what a search of the same cut and seed saw of its method.

        A configuration that was searched elsewhere has none here.
        """
        names = ("model", "ratio", "structure_ratio", "seed")
        fitting = [
            search
            for search in self.searches.values()
            if all(getattr(search, name) == getattr(row, name) for name in names)
        ]
        if "search" in row.stages:
            return next((search.best.value for search in fitting if search.stage == row.stages["search"].key), None)
        if not row.plain:  # a search scores methods as they are
            return None
        seen = (baseline for search in fitting for baseline in search.baselines)
        return next((baseline.value for baseline in seen if baseline.method == row.method), None)

    def uses(self) -> dict[str, Any]:
        """What was read and trained, each setting once, with the numbers that were really used."""
        texts: dict[str, results.TextUse] = {}
        tasks: dict[str, results.TaskUse] = {}
        calibration: dict[str, results.CalibrationUse] = {}
        recoveries: dict[str, results.RecoveryUse] = {}
        trained = {row.state.edits[-1].key: row for row in self.expansion.rows if row.state.edits}
        for stage in self.all_stages:
            if isinstance(stage, Perplexity):
                _keep(texts, stage.text.name, stage.use(self.measured(stage)))
            elif isinstance(stage, ZeroShot):
                _keep(tasks, stage.task.name, stage.use(self.measured(stage)))
            elif isinstance(stage, Recover):
                use = stage.use(self._training(stage, trained.get(stage.key)))
                runs = recoveries[name].runs + 1 if (name := repr(use)) in recoveries else 1
                recoveries[name] = use.model_copy(update={"runs": runs})
            if used := getattr(stage, "calibration", None):
                artifact = self.artifact(stage)
                use = used.use(artifact.facts.get("pool") if artifact else None)
                _keep(calibration, repr(used), use if artifact else self.expansion.known.pool(use))
        return {
            "texts": list(texts.values()),
            "tasks": list(tasks.values()),
            "calibration": list(calibration.values()),
            "recoveries": list(recoveries.values()),
        }

    def _training(self, stage: Recover, row: Row | None) -> list[results.TrainingStep]:
        """The steps of a recovery; none are known while it has not run."""
        if (artifact := self.artifact(stage)) is not None:
            return stage.training_steps(artifact.directory) or []
        earlier = self.expansion.known.row(row) if row else None
        return (earlier.training or []) if earlier else []

    @cached_property
    def all_stages(self) -> list[Stage]:
        """With those that only rows of an earlier run have."""
        return topological(stage for row in self.expansion.rows for stage in row.stages.values())

    def kinds(self) -> list[results.StageUse]:
        """Per kind of stage, how many there are, how many are done, and what they took."""
        to_run = {stage.key for stage in self.expansion.stages}
        uses = []
        for kind in dict.fromkeys(stage.kind for stage in self.all_stages):
            stages = [stage for stage in self.all_stages if stage.kind == kind]
            seconds = [artifact.seconds for stage in stages if (artifact := self.artifact(stage))]
            earlier = sum(stage.key not in to_run for stage in stages)
            done = len(seconds) + earlier
            uses.append(results.StageUse(kind=kind, stages=len(stages), done=done, seconds=sum(seconds)))
        return uses


def _parts(expansion: Expansion) -> list[results.Part]:
    columns = columns_of(expansion)
    parts = []
    for part in expansion.parts:
        keys = {column.key for column in part.columns}
        averaged = keys & {*_accuracies(columns)}
        shown = [column.key for column in columns if column.key in keys or (column.key == AVERAGE and averaged)]
        parts.append(results.Part(spec=part.spec, rows=list(part.rows), columns=shown))
    return parts


def _accuracies(columns: Sequence[results.Column]) -> list[str]:
    return [column.key for column in columns if column.kind == "accuracy"]


def _environment(artifacts: Sequence[Artifact]) -> results.Environment:
    if not artifacts:
        return results.Environment(**describe_machine())
    newest = max(artifacts, key=lambda artifact: artifact.record["finished"]).record["environment"]
    others = sum(artifact.record["environment"] != newest for artifact in artifacts)
    return results.Environment(**newest, others=others)


def _numbered(
    rows: Sequence[results.Row], earlier: Sequence[results.Earlier]
) -> tuple[list[results.Row], list[results.Earlier]]:
    """The rows, renumbered by the earlier runs that some row is from, and these runs."""
    used = sorted({row.earlier for row in rows if row.earlier is not None})
    numbers: dict[int | None, int | None] = {old: new for new, old in enumerate(used)}
    return [row.model_copy(update={"earlier": numbers.get(row.earlier)}) for row in rows], [earlier[i] for i in used]


def _keep(uses: dict[str, Any], key: str, use: Any) -> None:
    """Keep `use` unless one that leaves less open is there already."""
    if key not in uses or _open(use) < _open(uses[key]):
        uses[key] = use


def _open(use: Any) -> int:
    return sum(value is None for value in vars(use).values())


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _interval(artifact: Artifact) -> tuple[float, float]:
    end = datetime.fromisoformat(artifact.record["finished"]).timestamp()
    return end - artifact.seconds, end
