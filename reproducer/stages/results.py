"""results.json: what the artifacts say about the rows of a spec, as one plain dict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reproducer.data.tasks import TASKS
from reproducer.queue import Outcome, Result, Stage, describe_machine
from reproducer.spec import Spec
from reproducer.stages.budget import budget
from reproducer.stages.choices import choices
from reproducer.stages.found import artifact_json, searches_of
from reproducer.stages.rows import Expansion, Row


def collect(spec: Spec, expansion: Expansion, outcome: Outcome) -> dict[str, Any]:
    """Read every row's artifacts; a row with a stage that failed, or has not run, says so.

    Returns:
        What `reproducer.reporting.render` takes and writes as results.json.
    """
    searches = searches_of(expansion, outcome)
    return {
        "spec": spec.model_dump(mode="json"),
        "profile": list(spec.profile),
        "environment": _environment(outcome),
        "stands_for": dict(getattr(spec, "stands_for", {})),
        "metrics": _metrics(expansion),
        "rows": [_row(row, expansion, outcome, searches) for row in expansion.rows],
        "searches": list(searches.values()),
        "budget": budget(expansion, outcome),
        "choices": choices(spec, expansion, outcome),
        "paper": None,
    }


def _metrics(expansion: Expansion) -> list[dict[str, Any]]:
    """The columns; `score` says which of a task's two accuracies is shown. Several tasks have their average last."""
    found = [
        {
            "key": metric.key,
            "label": metric.label,
            "kind": metric.kind,
            "higher_is_better": metric.higher_is_better,
            "source_key": metric.source,
            "score": TASKS[metric.source].metric if metric.kind == "accuracy" else None,
        }
        for metric in expansion.metrics
    ]
    last = max((i for i, metric in enumerate(found) if metric["kind"] == "accuracy"), default=-1)
    if sum(metric["kind"] == "accuracy" for metric in found) > 1:
        average = {"key": "average_acc", "label": "Average", "source_key": None, "score": None}
        found.insert(last + 1, {**found[last], **average})
    return found


def _environment(outcome: Outcome) -> dict[str, Any]:
    """Where the newest artifact was made; `others` counts the artifacts that were made elsewhere or otherwise."""
    records = [result.artifact.record for result in outcome.results.values() if result.artifact]
    if not records:
        return describe_machine()
    newest = max(records, key=lambda record: record["finished"])["environment"]
    return {**newest, "others": sum(record["environment"] != newest for record in records)}


def _json(outcome: Outcome, stage: Stage, name: str) -> Any:
    artifact = outcome[stage].artifact
    return None if artifact is None else artifact_json(artifact, name)


def _row(row: Row, expansion: Expansion, outcome: Outcome, searches: Mapping[str, Any]) -> dict[str, Any]:
    results = {role: outcome[stage] for role, stage in row.stages.items()}
    own = [result.artifact for role, result in results.items() if result.artifact and role != "model"]
    unfinished = [result for result in results.values() if result.artifact is None]
    failed = [result for result in unfinished if result.status == "failed"] or unfinished
    measured = {metric: _json(outcome, row.stages[metric.role], "result.json") for metric in expansion.metrics}
    metrics = {
        metric.key: result and result[metric.key if metric.kind == "other" else "value"]
        for metric, result in measured.items()
    }
    accuracies = [metrics[metric.key] for metric in expansion.metrics if metric.kind == "accuracy"]
    if accuracies:
        metrics["average_acc"] = None if None in accuracies else sum(accuracies) / len(accuracies)
    total, left = _parameters(row, results)
    generations = [stage for role, stage in row.stages.items() if role.startswith("generation_")]
    training = row.stages.get("adapter")
    return {
        "model": row.model,
        "method": row.method,
        "label": row.label,
        "ratio": row.ratio,
        "structure_ratio": row.structure_ratio,
        "recovery": row.recovery,
        "seed": row.seed,
        "status": _status(unfinished),
        "error": f"{failed[0].stage.label}: {failed[0].message or 'not run'}" if failed else None,
        "metrics": metrics,
        "params": left,
        "params_removed": None if left is None or total is None else (total - left) / total,
        "seconds": sum(artifact.seconds for artifact in own) if own else None,
        "peak_memory_bytes": max((artifact.peak_memory_bytes for artifact in own), default=None),
        "stages": {role: stage.key for role, stage in row.stages.items()},
        "search_objective": _objective(row, searches),
        "task_metrics": {m.source: _scores(r) for m, r in measured.items() if r and m.kind == "accuracy"},
        "items": {m.source: r["items"] for m, r in measured.items() if r and m.kind == "accuracy"},
        "window_losses": {m.key: r["nll_per_window"] for m, r in measured.items() if r and m.kind == "perplexity"},
        "generations": [text for stage in generations if (text := _json(outcome, stage, "result.json"))],
        "training": _json(outcome, training, "losses.json") if training else None,
    }


def _scores(result: Mapping[str, Any]) -> dict[str, Any]:
    """Both accuracies of a task with their standard errors, as lm-eval gives them; a task may lack `acc_norm`."""
    n = len(result["items"])
    found: dict[str, Any] = {"items": n, "shown": result["metric"]}
    for name in ("acc", "acc_norm"):
        value = result[name]
        known = value is not None and n > 1
        found[name] = value
        found[f"{name}_stderr"] = math.sqrt(value * (1 - value) / (n - 1)) if known else None
    return found


def _status(unfinished: Sequence[Result]) -> str:
    """`done`, `failed`, or `missing`: something has not run yet, and nothing failed."""
    if not unfinished:
        return "done"
    return "missing" if all(result.status == "missing" for result in unfinished) else "failed"


def _parameters(row: Row, results: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Parameters of the base model and of the row's, None where not known."""
    model = results["model"].artifact
    total = model.record["facts"]["parameters"] if model else None
    if "plan" not in results:
        return total, total
    plan = results["plan"].artifact
    return total, plan.record["facts"]["parameters"]["left"] if plan else None


def _objective(row: Row, searches: Mapping[str, Any]) -> float | None:
    """A row's search objective: a search's own result, or what a search of the same cut and seed saw of a baseline.

    A configuration that was searched elsewhere has none here.
    """
    same = ("model", "ratio", "structure_ratio", "seed")

    def fits(search: Mapping[str, Any]) -> bool:
        return all(search[name] == getattr(row, name) for name in same)

    if "search" in row.stages:
        own = searches.get(row.stages["search"].key)
        return own["best"]["value"] if own and fits(own) else None
    for search in filter(fits, searches.values()):
        for candidate in search["candidates"]:
            if candidate["method"] == row.method:
                return candidate["value"]
    return None
