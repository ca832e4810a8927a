"""What the searches of a spec found, read from their artifacts; those of an older version lack some of it."""

from __future__ import annotations

import json
from typing import Any

from reproducer.methods.registry import methods
from reproducer.queue import Artifact, Outcome, Stage
from reproducer.stages.rows import Expansion, Row

SETTINGS = ("sampler", "mode", "encoding", "data", "order")


def artifact_json(artifact: Artifact, name: str) -> Any:
    """One of an artifact's JSON files."""
    return json.loads((artifact.directory / name).read_text(encoding="utf-8"))


def searches_of(expansion: Expansion, outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Every finished search of the spec once, by its stage's key.

    A search is told by the cut that it was made for, which a row that takes its configuration over need not have;
    `label` is that of the row that searched, where the spec has one.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in expansion.rows:
        stage = row.stages.get("search")
        if stage is None or (artifact := outcome[stage].artifact) is None:
            continue
        cut = stage.params["prune"]
        place = {"model": row.model, "ratio": cut.get("ratio"), "structure_ratio": cut.get("structure_ratio")}
        own = all(getattr(row, name) == value for name, value in place.items())
        if stage.key not in found or (own and not found[stage.key]["own"]):
            found[stage.key] = {**_search(stage, artifact, row), **place, "own": own}
    return {key: {name: value for name, value in one.items() if name != "own"} for key, one in found.items()}


def _search(stage: Stage, artifact: Artifact, row: Row) -> dict[str, Any]:
    params = stage.params
    best = artifact_json(artifact, "best.json")
    trials = artifact_json(artifact, "trials.json")
    embedded = {trial["baseline"]: trial["value"] for trial in trials if trial["baseline"]}
    baselines = {**artifact_json(artifact, "candidates.json"), **embedded}
    return {
        "label": row.label,
        "seed": params["seed"],
        **{name: params.get(name) for name in SETTINGS},
        "objective": "mean perplexity of the pruned, untuned model on "
        + " and ".join(text["name"] for text in params["texts"]),
        "split": params["split"],
        "windows": params["windows"],
        "workers": best.get("workers", 1),
        "trials": trials,
        "candidates": [{"label": _label(name), "method": name, "value": v} for name, v in baselines.items()],
        "best": {
            "label": _label(best["baseline"]) if best["baseline"] else "found by the search",
            "number": best["trial"],
            "value": best["value"],
            "params": best["parameters"],
            "samples": artifact_json(artifact, "samples.json"),
        },
        "importances": _optional(artifact, "importances.json"),
        "costs": _optional(artifact, "costs.json"),
        "seconds": artifact.seconds,
    }


def _optional(artifact: Artifact, name: str) -> Any:
    return artifact_json(artifact, name) if (artifact.directory / name).is_file() else None


def _label(method: str) -> str:
    return methods()[method].label
