"""What a run was limited to and what it spent, in a few lines near the top of the report."""

from collections.abc import Mapping
from typing import Any

from reproducer.reporting.summary import seconds_text
from reproducer.reporting.tables import Table


def budget_section(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`limits` and `times`, two tables, and a `sentence` of totals; None for results that do not tell."""
    if not found:
        return None
    limits = Table(["What", "Budget of this run"], "lp")
    parts = {"Zero-shot": _tasks, "Perplexity": _texts, "Recovery": _recovery, "Search": _searches}
    parts["Calibration"] = _calibration
    keys = ("tasks", "texts", "recovery", "searches", "calibration")
    for key, (name, describe) in zip(keys, parts.items(), strict=True):
        if found[key]:
            limits.add(name, describe(found[key]))
    times = Table(["Stages", "Number", "Time"], "lrr")
    for entry in found["stages"]:
        number = str(entry["stages"]) if entry["done"] == entry["stages"] else f"{entry['done']} of {entry['stages']}"
        times.add(entry["kind"], number, seconds_text(entry["seconds"]))
    times.rule()
    done, total = (sum(entry[name] for entry in found["stages"]) for name in ("done", "stages"))
    times.add("all", str(total) if done == total else f"{done} of {total}", seconds_text(found["seconds"]))
    sentence = f"{seconds_text(found['seconds'])} of work, each stage counted once"
    if found["wall_seconds"] < 0.9 * (found["seconds"] - done):  # the store keeps whole seconds of when a stage ended
        sentence += f", {seconds_text(found['wall_seconds'])} on the clock, where stages ran side by side"
    return {"limits": limits, "times": times, "sentence": sentence + "."}


def _tasks(tasks: list[Mapping[str, Any]]) -> str:
    limits = {task["limit"] for task in tasks}
    items = ", ".join(f"{task['label']} {_number(task['items'])}" for task in tasks)
    return f"{_joined(_limit(limit, 'items', 'a task') for limit in limits)}: {items}"


def _texts(texts: list[Mapping[str, Any]]) -> str:
    limits = {text["limit"] for text in texts}
    read = ", ".join(
        f"{text['label']} {_number(text['windows'])} × {text['seq_len']} tokens"
        + (f" = {text['tokens']:,}" if text["tokens"] is not None else "")
        for text in texts
    )
    return f"{_joined(_limit(limit, 'windows', 'a text') for limit in limits)}: {read}"


def _recovery(runs: list[Mapping[str, Any]]) -> str:
    told = []
    for run in runs:
        used = "not run" if run["steps"] is None else f"{run['steps']:,} steps of {run['batch']}"
        used += "" if run["examples"] is None else f" = {run['examples']:,} examples seen"
        until = f"{run['epochs']} epochs" if run["limit"] is None else f"{run['limit']:,} steps at most"
        rows = "" if run["rows"] is None else f" of the first {run['rows']:,} examples"
        told.append(f"{run['runs']} × {used} ({until}{rows}; {run['dataset']})")
    return "; ".join(told)


def _searches(runs: list[Mapping[str, Any]]) -> str:
    return "; ".join(
        f"{run['runs']} × {run['trials']:,} trials, each on {run['windows']} windows × {run['seq_len']} tokens of "
        + (f"each of {run['texts']} texts" if run["texts"] > 1 else "a text")
        for run in runs
    )


def _calibration(draws: list[Mapping[str, Any]]) -> str:
    told = []
    for draw in draws:
        size = "" if draw["pool"] is None else f" {draw['pool']:,} passages"
        limit = "" if draw["limit"] is None else f", {draw['limit']:,} at most"
        told.append(
            f"{draw['samples']} samples × {draw['length']} tokens of {draw['dataset']}, from a pool of"
            + (f"{size}{limit}" if size else f" {draw['limit']:,}" if limit else " all its passages")
        )
    return "; ".join(told)


def _limit(limit: int | None, what: str, each: str) -> str:
    return f"all {what}" if limit is None else f"{limit:,} {what} {each} at most"


def _number(value: int | None) -> str:
    return "none yet" if value is None else f"{value:,}"


def _joined(parts: Any) -> str:
    return " or ".join(sorted(parts))
