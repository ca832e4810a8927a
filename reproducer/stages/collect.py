"""What the artifacts of a spec's stages say about its rows: the content of results.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from reproducer.queue import Artifact, Outcome, Result, Stage, describe_machine, topological
from reproducer.stages import results as facts
from reproducer.stages.base import Measure
from reproducer.stages.document import Whole
from reproducer.stages.expand import Expansion, Row
from reproducer.stages.known import AVERAGE, Known, unknowns
from reproducer.stages.perplexity import Perplexity
from reproducer.stages.recovery import Recover
from reproducer.stages.resolve import DENSE, ResolvedModel
from reproducer.stages.search import Search
from reproducer.stages.zeroshot import ZeroShot

DECIDING = ("search", "transfer", "training", "plan")  # roles of the stages that decide what goes


def collect(expansion: Expansion, outcome: Outcome, command: Sequence[str] = ()) -> facts.Results:
    """Read every row's artifacts; a row with a stage that failed, or has not run, says so.

    Raises:
        UserError: rows that are taken over were measured on other data.
    """
    known = expansion.known
    searches = _searches(expansion, outcome)
    averaged = _all_averaged(expansion, outcome)
    rows = [
        _known_row(known, row, averaged, searches) or _row(row, outcome, searches, averaged[row.model])
        for row in expansion.rows
    ]
    rows, earlier = _numbered(rows, known.earlier)
    made = [artifact for stage in expansion.stages if (artifact := outcome[stage].artifact)]
    read = {name: digest for artifact in made for name, digest in artifact.record["fingerprints"].items()}
    read.pop("device", None)
    if earlier:
        known.check(read)
        read = {**known.sources, **read}
    return facts.Results(
        spec=expansion.resolved_spec,
        profile=list(expansion.spec.profile),
        command=list(command),
        environment=earlier[-1].environment if earlier and not made else _environment(made),
        models=[_model(expansion, model, outcome, averaged[model.name]) for model in expansion.found.models],
        columns=columns_of(expansion),
        rows=rows,
        searches=list(searches.values()),
        **_uses(expansion, outcome),
        stages=_kinds(expansion, outcome),
        seconds=sum(artifact.seconds for artifact in made),
        wall_seconds=_covered(_interval(artifact) for artifact in made),
        parts=_parts(expansion),
        sources=[facts.Source(name=name, digest=digest) for name, digest in sorted(read.items())],
        earlier=earlier,
    )


def _parts(expansion: Expansion) -> list[facts.Part]:
    if not isinstance(expansion, Whole):
        return []
    known = columns_of(expansion)
    found = []
    for part in expansion.parts:
        keys = {column.key for column in part.columns}
        shown = [one.key for one in known if one.key in keys or (one.key == AVERAGE and keys & {*_accuracies(known)})]
        found.append(facts.Part(spec=part.spec, rows=list(part.rows), columns=shown))
    return found


def _accuracies(columns: Sequence[facts.Column]) -> list[str]:
    return [column.key for column in columns if column.kind == "accuracy"]


def settled_rows(expansion: Expansion, stage: Stage, results: Mapping[str, Result]) -> list[facts.Row]:
    """The rows that wait for nothing any more now that `stage` is settled, without their search objectives.

    Args:
        results: of the stages settled so far, by key.
    """
    ended = [
        row
        for row in expansion.rows
        if stage in row.stages.values() and all(one.key in results for one in row.stages.values())
    ]
    if not ended:
        return []
    outcome = Outcome({one.key: results.get(one.key) or Result(one, "missing") for one in expansion.stages})
    averaged = _all_averaged(expansion, outcome)
    return [_row(row, outcome, {}, averaged[row.model]) for row in ended]


def _environment(made: Sequence[Artifact]) -> facts.Environment:
    if not made:
        return facts.Environment(**describe_machine())
    newest = max(made, key=lambda artifact: artifact.record["finished"]).record["environment"]
    return facts.Environment(**newest, others=sum(artifact.record["environment"] != newest for artifact in made))


def columns_of(expansion: Expansion) -> list[facts.Column]:
    """The columns, margins behind all others; several accuracies have their average last."""
    columns = sorted(expansion.columns, key=lambda column: column.is_margin)
    shown = [place for place, column in enumerate(columns) if column.kind == "accuracy"]
    if len(shown) > 1:
        average = facts.Column(key=AVERAGE, label="Average", kind="accuracy", higher_is_better=True)
        columns.insert(shown[-1] + 1, average)
    return columns


def _all_averaged(expansion: Expansion, outcome: Outcome) -> dict[str, list[str]]:
    """The accuracies that averages are over, by model."""
    return {row.model: _averaged(row, outcome, expansion.known) for row in expansion.rows if row.method == DENSE}


def _averaged(dense: Row, outcome: Outcome, known: Known) -> list[str]:
    """The accuracies that a model's averages are over, by their columns' keys.

    Without the tasks in which its dense row is no better than the majority class; where one of the two is not known,
    the task stays.
    """
    if (model := known.model(dense)) is not None:
        own = _accuracies(dense.columns)
        return [key for key in own if model.averaged is None or key in model.averaged]
    return [
        column.key
        for stage in dense.stages.values()
        if isinstance(stage, Measure)
        and not (isinstance(stage, ZeroShot) and stage.no_better_than_majority(outcome[stage].artifact))
        for column in stage.columns()
        if column.kind == "accuracy"
    ]


def _model(expansion: Expansion, model: ResolvedModel, outcome: Outcome, averaged: list[str]) -> facts.Model:
    artifact = _artifact(outcome, model.state.model)
    dense = next(row for row in expansion.rows if row.method == DENSE and row.model == model.name)
    before = expansion.known.model(dense)
    stands_for = expansion.spec.stands_for.get(model.given.name)
    if stands_for is None and model.name not in (model.given.name, model.given.label):
        stands_for = model.given.name  # a document renamed it
    told = model.facts(stands_for)
    parameters = artifact.facts["parameters"] if artifact else before.parameters if before else model.entry.parameters
    return facts.Model(**told, parameters=parameters, averaged=averaged)


def _known_row(
    known: Known, row: Row, averaged: Mapping[str, Sequence[str]], searches: Mapping[str, facts.Search]
) -> facts.Row | None:
    """The row as an earlier run has it, if that is known; what follows from other rows is this run's."""
    found = known.take(row)
    if found is None:
        return None
    update: dict[str, Any] = {"search_objective": _objective(row, searches)}
    if accuracies := _accuracies(row.columns):
        average = _average(found.metrics, averaged[row.model], len(accuracies))
        update["metrics"] = {**found.metrics, AVERAGE: average}
    return found.model_copy(update=update)


def _numbered(
    rows: Sequence[facts.Row], earlier: Sequence[facts.Earlier]
) -> tuple[list[facts.Row], list[facts.Earlier]]:
    """The earlier runs that a row is from, and the rows with their places among these."""
    used = sorted({row.earlier for row in rows if row.earlier is not None})
    places: dict[int | None, int | None] = {number: place for place, number in enumerate(used)}
    return [row.model_copy(update={"earlier": places.get(row.earlier)}) for row in rows], [earlier[one] for one in used]


def _row(row: Row, outcome: Outcome, searches: Mapping[str, facts.Search], averaged: Sequence[str]) -> facts.Row:
    found = {role: outcome[stage] for role, stage in row.stages.items()}
    own = [result.artifact for role, result in found.items() if result.artifact and role != "model"]
    open_ones = [result for result in found.values() if result.artifact is None]
    failed = [result for result in open_ones if result.status == "failed"] or open_ones
    missing = all(result.status == "missing" for result in open_ones)
    total, left = _parameters(row, outcome)
    measured = _measured(row, outcome, averaged)
    return facts.Row(
        **row.facts,
        status="done" if not open_ones else "missing" if missing else "failed",
        error=f"{failed[0].stage.label}: {failed[0].message or 'not run'}" if failed else None,
        params=left,
        params_removed=None if left is None or total is None else (total - left) / total,
        reached=_reached(row, outcome),
        seconds=sum(artifact.seconds for artifact in own) if own else None,
        deciding_seconds=_seconds(row, outcome, DECIDING),
        recovery_seconds=_seconds(row, outcome, ("recovery",)),
        peak_memory_bytes=max((artifact.peak_memory_bytes for artifact in own), default=None),
        stages={role: stage.key for role, stage in row.stages.items()},
        tokens=_tokens(row, outcome),
        search_objective=_objective(row, searches),
        **measured,
    )


def _measured(row: Row, outcome: Outcome, averaged: Sequence[str]) -> dict[str, Any]:
    """What the row's measuring stages say, merged; and the training of its recovery.

    Args:
        averaged: keys of the accuracies that the average is over; a row of a document that does not measure all of
            them has none. If others were left out, of fewer than two there is none.
    """
    merged: dict[str, Any] = {"metrics": {}}
    accuracies = 0
    for stage in row.stages.values():
        artifact = outcome[stage].artifact
        if isinstance(stage, Recover) and artifact:
            merged["training"] = stage.read(artifact.directory).losses
        if not isinstance(stage, Measure):
            continue
        merged["metrics"] |= {column.key: None for column in stage.columns()}
        accuracies += sum(column.kind == "accuracy" for column in stage.columns())
        if artifact is None:
            continue
        device = artifact.record["fingerprints"].get("device")
        for name, value in stage.facts(stage.read(artifact.directory), device).items():
            _merge(merged, name, value)
    if accuracies:
        merged["metrics"][AVERAGE] = _average(merged["metrics"], averaged, accuracies)
    return merged


def _average(metrics: Mapping[str, float | None], averaged: Sequence[str], accuracies: int) -> float | None:
    values = [value for key in averaged if (value := metrics.get(key)) is not None]
    return sum(values) / len(values) if len(values) == len(averaged) >= min(accuracies, 2) else None


def _merge(into: dict[str, Any], name: str, value: Any) -> None:
    """Add a field to those of a row; mappings and lists of several stages are joined."""
    known = into.get(name)
    if isinstance(known, dict):
        into[name] = {**known, **value}
    elif isinstance(known, list):
        into[name] = [*known, *value]
    else:
        into[name] = value


def _parameters(row: Row, outcome: Outcome) -> tuple[int | None, int | None]:
    """Parameters of the base model and of the row's, None where not known."""
    model = outcome[row.stages["model"]].artifact
    total = model.facts["parameters"] if model else None
    if "plan" not in row.stages:
        return total, total
    plan = outcome[row.stages["plan"]].artifact
    return total, plan.facts["parameters"]["left"] if plan else None


def _reached(row: Row, outcome: Outcome) -> facts.Reached | None:
    plan = outcome[row.stages["plan"]].artifact if "plan" in row.stages else None
    return facts.Reached(**plan.facts["cut"]) if plan is not None and "cut" in plan.facts else None


def _seconds(row: Row, outcome: Outcome, roles: Sequence[str]) -> float | None:
    """Of the row's stages in these roles; None where there is none, or one has not run."""
    made = [outcome[row.stages[role]].artifact for role in roles if role in row.stages]
    known = [artifact.seconds for artifact in made if artifact is not None]
    return sum(known) if known and len(known) == len(made) else None


def _tokens(row: Row, outcome: Outcome) -> facts.Tokens | None:
    """What deciding on the cut took; None for a dense row, and while a stage of it has not run."""
    deciding = [row.stages[role] for role in DECIDING if role in row.stages]
    counts = [artifact.facts.get("tokens") if (artifact := outcome[stage].artifact) else None for stage in deciding]
    known = [count for count in counts if count is not None]
    if not deciding or len(known) < len(deciding):
        return None
    return facts.Tokens(**{name: sum(count[name] for count in known) for name in ("forward", "backward")})


def _objective(row: Row, searches: Mapping[str, facts.Search]) -> float | None:
    """A row's search objective: its own search's, or what a search of the same model, cut and seed saw of its method.

    A configuration that was searched elsewhere has none here.
    """

    def fits(search: facts.Search) -> bool:
        return all(
            getattr(search, name) == getattr(row, name) for name in ("model", "ratio", "structure_ratio", "seed")
        )

    if "search" in row.stages:
        own = searches.get(row.stages["search"].key)
        return own.best.value if own and fits(own) else None
    if not row.plain:  # a search scores methods as they are
        return None
    seen = (baseline for search in searches.values() if fits(search) for baseline in search.baselines)
    return next((baseline.value for baseline in seen if baseline.method == row.method), None)


def _searches(expansion: Expansion, outcome: Outcome) -> dict[str, facts.Search]:
    """Every finished search of the spec once, by its stage's key.

    A search is told by the cut that it was made for, which a row that takes its configuration over need not have;
    `label` is that of the row that searched, where the spec has one.
    """
    found: dict[str, tuple[bool, facts.Search]] = {}
    for row in expansion.rows:
        stage = row.stages.get("search") or row.stages.get("transfer")
        if not isinstance(stage, Search):
            continue
        own = "search" in row.stages
        if stage.key in found and (found[stage.key][0] or not own):
            continue
        model = row.model if own else stage.model.label
        if (artifact := _artifact(outcome, stage)) is not None:
            found[stage.key] = own, stage.told(artifact, model, row.label)
        elif (before := expansion.known.search(row)) is not None:
            found[stage.key] = own, before.model_copy(update={"model": model, "label": row.label})
    return {key: search for key, (_, search) in found.items()}


def _uses(expansion: Expansion, outcome: Outcome) -> dict[str, Any]:
    """What was read and trained, each setting once, with the numbers that were really used."""
    texts: dict[str, facts.TextUse] = {}
    tasks: dict[str, facts.TaskUse] = {}
    calibration: dict[Any, facts.CalibrationUse] = {}
    recoveries: dict[str, facts.RecoveryUse] = {}
    taken = _taken(expansion)
    for stage in _all_stages(expansion):
        artifact = _artifact(outcome, stage)
        known = expansion.known if stage.key in taken and artifact is None else Known()
        if isinstance(stage, Perplexity):
            _first(texts, stage.text.name, known.use(stage.use(artifact)))
        elif isinstance(stage, ZeroShot):
            _first(tasks, stage.task.name, known.use(stage.use(artifact)))
        elif isinstance(stage, Recover):
            use = known.use(stage.use(artifact))
            runs = recoveries[name].runs + 1 if (name := repr(use)) in recoveries else 1
            recoveries[name] = use.model_copy(update={"runs": runs})
        if used := getattr(stage, "calibration", None):
            pool = artifact.facts.get("pool") if artifact else None
            _first(calibration, repr(used), known.use(used.use(pool)))
    return {
        "texts": list(texts.values()),
        "tasks": list(tasks.values()),
        "calibration": list(calibration.values()),
        "recoveries": list(recoveries.values()),
    }


def _all_stages(expansion: Expansion) -> list[Stage]:
    """With those that only known rows have."""
    return topological(stage for row in expansion.rows for stage in row.stages.values())


def _taken(expansion: Expansion) -> set[str]:
    """Keys of the stages of known rows, their inputs included."""
    known = (row for row in expansion.rows if expansion.known.find(row) is not None)
    return {stage.key for stage in topological(stage for row in known for stage in row.stages.values())}


def _artifact(outcome: Outcome, stage: Stage) -> Artifact | None:
    """What a stage made; None: nothing, or a known row stands for it."""
    result = outcome.results.get(stage.key)
    return result.artifact if result else None


def _first(known: dict[Any, Any], key: Any, use: Any) -> None:
    """Keep `use` unless one that knows more is there already."""
    if key not in known or unknowns(use) < unknowns(known[key]):
        known[key] = use


def _kinds(expansion: Expansion, outcome: Outcome) -> list[facts.StageUse]:
    found, stages, taken = [], _all_stages(expansion), _taken(expansion)
    for kind in dict.fromkeys(stage.kind for stage in stages):
        of_kind = [stage for stage in stages if stage.kind == kind]
        seconds = [artifact.seconds for stage in of_kind if (artifact := _artifact(outcome, stage))]
        done = sum(stage.key in taken or _artifact(outcome, stage) is not None for stage in of_kind)
        found.append(facts.StageUse(kind=kind, stages=len(of_kind), done=done, seconds=sum(seconds)))
    return found


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
