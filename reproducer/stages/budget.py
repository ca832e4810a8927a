"""What a run was limited to and what it spent, gathered from the stages themselves: a report's scale at a glance."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from reproducer.data.tasks import TASKS
from reproducer.queue import Artifact, Outcome, Stage
from reproducer.stages import names
from reproducer.stages.found import artifact_json
from reproducer.stages.rows import Expansion


def budget(expansion: Expansion, outcome: Outcome) -> dict[str, Any]:
    """Limits (None: none) and what was really used, from every stage of the spec once.

    Returns:
        `tasks` (label, limit, items), `texts` (label, limit, windows, seq_len, tokens), `recovery` (dataset, limit,
        steps, batch, examples, runs), `searches` (trials, windows and texts of seq_len tokens, runs), `calibration`
        (dataset, samples, length, limit, pool), each a list without repetitions; numbers used are None where nothing
        was measured yet. `stages`: for each `kind` how many there are, how many have a result, and their `seconds`;
        `seconds` of all of them, one after another; `wall_seconds`, the time that at least one of them took up.
    """
    pairs = [(stage, outcome[stage].artifact) for stage in expansion.stages]
    made = [artifact for _, artifact in pairs if artifact is not None]
    return {
        "tasks": _tasks(pairs),
        "texts": _texts(pairs),
        "recovery": _recovery(pairs),
        "searches": _searches(pairs),
        "calibration": _calibration(pairs),
        "stages": _kinds(pairs),
        "seconds": sum(artifact.seconds for artifact in made),
        "wall_seconds": covered(_interval(artifact) for artifact in made),
    }


Pairs = list[tuple[Stage, Artifact | None]]


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _interval(artifact: Artifact) -> tuple[float, float]:
    end = datetime.fromisoformat(artifact.record["finished"]).timestamp()
    return end - artifact.seconds, end


def _of(pairs: Pairs, kind: str) -> Pairs:
    return [(stage, artifact) for stage, artifact in pairs if stage.kind == kind]


def _tasks(pairs: Pairs) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for stage, artifact in _of(pairs, "zeroshot"):
        task = stage.params["task"]
        entry = found.setdefault(task, {"label": TASKS[task].label, "limit": stage.params["limit"], "items": None})
        if artifact is not None and entry["items"] is None:
            entry["items"] = len(artifact_json(artifact, "result.json")["items"])
    return list(found.values())


def _texts(pairs: Pairs) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for stage, artifact in _of(pairs, "perplexity"):
        params = stage.params
        name, length = params["text"]["name"], params["seq_len"]
        unknown = {"windows": None, "seq_len": length, "tokens": None}
        entry = found.setdefault(name, {"label": names.text_label(name), "limit": params["windows"], **unknown})
        if artifact is not None and entry["windows"] is None:
            windows = len(artifact_json(artifact, "result.json")["nll_per_window"])
            entry |= {"windows": windows, "tokens": windows * length}
    return list(found.values())


def _recovery(pairs: Pairs) -> list[dict[str, Any]]:
    runs = []
    for stage, artifact in _of(pairs, "recovery"):
        lora = stage.params["lora"]
        done = artifact_json(artifact, "losses.json")[-1] if artifact else {"step": None, "examples": None}
        used = {"steps": done["step"], "batch": lora["batch"], "examples": done["examples"]}
        limits = {"limit": lora["steps"], "epochs": lora["epochs"], "rows": lora["examples"]}
        runs.append({"dataset": stage.params["dataset"], **limits, **used})
    return _counted(runs)


def _searches(pairs: Pairs) -> list[dict[str, Any]]:
    names_of = ("trials", "windows", "seq_len")
    return _counted(
        [
            {**{name: stage.params[name] for name in names_of}, "texts": len(stage.params["texts"])}
            for stage, _ in _of(pairs, "search")
        ]
    )


def _calibration(pairs: Pairs) -> list[dict[str, Any]]:
    """Every stage that draws; `pool` is its size where a stage has recorded it."""
    found: dict[tuple, dict[str, Any]] = {}
    for stage, artifact in pairs:
        if (section := stage.params.get("calibration")) is None:
            continue
        key = (section["text"]["name"], section["samples"], section["length"], section["pool"])
        entry = found.setdefault(
            key, {**dict(zip(("dataset", "samples", "length", "limit"), key, strict=True)), "pool": None}
        )
        if artifact is not None and entry["pool"] is None:
            entry["pool"] = artifact.facts.get("pool")
    return list(found.values())


def _counted(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Equal entries once, with `runs`, how often they were there."""
    once = [run for i, run in enumerate(runs) if run not in runs[:i]]
    return [{**run, "runs": runs.count(run)} for run in once]


def _kinds(pairs: Pairs) -> list[dict[str, Any]]:
    found = []
    for kind in dict.fromkeys(stage.kind for stage, _ in pairs):
        made = [artifact for _, artifact in _of(pairs, kind) if artifact is not None]
        seconds = sum(artifact.seconds for artifact in made)
        found.append({"kind": kind, "stages": len(_of(pairs, kind)), "done": len(made), "seconds": seconds})
    return found
