"""What the report says of a run: its table, its searches, its failures, its environment. Text here is unescaped."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reproducer.reporting.escape import one_line
from reproducer.reporting.summary import (
    FORMATS,
    Group,
    blocks,
    bytes_text,
    deviation,
    groups,
    mean,
    perplexity_text,
    ratio_text,
    recovery_text,
    seconds_text,
)
from reproducer.reporting.tables import Cell, Table

Results = Mapping[str, Any]
ARROWS = {True: "↑", False: "↓"}


def best(shown: Sequence[tuple[float, str] | None], higher_is_better: bool) -> set[int]:
    """Which of the cells, each (value, text as displayed) or None, are best.

    Cells that read the same as the best are equally good: what is compared is what the reader sees. Where only one
    cell has a value there is nothing to be best of.
    """
    there = [(cell, i) for i, cell in enumerate(shown) if cell is not None]
    if len(there) < 2:
        return set()
    values = [cell[0] for cell, _ in there]
    top = values.index(max(values) if higher_is_better else min(values))
    return {i for cell, i in there if cell[1] == there[top][0][1]}


def value_text(values: Sequence[float], form: Callable[[float], str]) -> str:
    """A single value, or mean ± sample standard deviation over seeds."""
    text, spread = form(mean(values) or 0.0), deviation(values)
    return text if spread is None else f"{text} ± {form(spread)}"


def results_table(results: Results) -> Table:
    """The paper's table: a line a model, ratio, recovery and method; the best of each block in bold; then the costs."""
    lines = groups(results["rows"])
    models = len({line.model for line in lines}) > 1
    searched = any(line.facts("search_objective") for line in lines)
    headers = ["Model"] * models + ["Ratio", "Tuning", "Method"]
    headers += [metric["label"] + ARROWS[metric["higher_is_better"]] for metric in results["metrics"]]
    headers += ["Search obj.↓"] * searched + ["Removed", "Time", "Peak memory"]
    table = Table(headers, "l" * (3 + models) + "r" * (len(headers) - 3 - models))
    for block in blocks(lines):
        columns = [
            _column(block, [line.values(metric["key"]) for line in block], metric) for metric in results["metrics"]
        ]
        if searched:
            objective = {"kind": "perplexity", "higher_is_better": False}
            columns.append(_column(block, [line.facts("search_objective") for line in block], objective, missing="–"))
        table.rule()
        for i, line in enumerate(block):
            head = [line.model] * models + [ratio_text(line.ratio, line.structure_ratio), recovery_text(line.recovery)]
            if i:
                head = [""] * len(head)
            elif line.dense:
                head[-1] = ""
            table.add(*head, _method(line), *(column[i] for column in columns), *_costs(line))
    return table


def _method(line: Group) -> str:
    label = "Dense" if line.dense and line.label in ("", line.model, "dense") else line.label
    missing = len(line.rows) - len(line.done)
    return f"{label} ({len(line.done)} of {len(line.rows)} seeds)" if line.done and missing else label


def _column(
    block: list[Group], found: list[list[float]], metric: Mapping[str, Any], missing: str | None = None
) -> list[Cell]:
    """The cells of a metric whose values, by line and seed, are `found`."""
    form = FORMATS[metric["kind"]]
    compared = [
        (mean(v) or 0.0, form(mean(v) or 0.0)) if v and not line.dense else None
        for v, line in zip(found, block, strict=True)
    ]
    bold = best(compared, metric["higher_is_better"])
    return [
        Cell(value_text(v, form), i in bold) if v else Cell(missing or ("failed" if line.failed else "–"))
        for i, (v, line) in enumerate(zip(found, block, strict=True))
    ]


def _costs(line: Group) -> list[str | None]:
    forms = {"params_removed": lambda x: f"{100 * x:.2f}%", "seconds": seconds_text, "peak_memory_bytes": bytes_text}
    return [
        None if (value := mean(line.facts(name))) is None else form(value)
        for name, form in forms.items()
    ]  # fmt: skip


def row_name(row: Mapping[str, Any], models: bool = True) -> str:
    """`LLM-Pruner-E1, 20%, w/ tune, seed 0`, with the model before it."""
    parts = [row["model"]] * models + [row["label"]]
    if row.get("method") != "dense":
        parts += [ratio_text(row.get("ratio"), row.get("structure_ratio")), recovery_text(row["recovery"])]
    return ", ".join(parts + ([f"seed {row['seed']}"] if "seed" in row else []))


def failures(results: Results) -> list[dict[str, str]]:
    """`name` and `error` of every row that is not done."""
    return [
        {"name": row_name(row), "error": row.get("error") or ("no message" if row["status"] == "failed" else "not run")}
        for row in results["rows"]
        if row["status"] != "done"
    ]


def headline(results: Results) -> list[str]:
    """A few sentences for who reads nothing else."""
    rows = results["rows"]
    done, failed = (sum(row["status"] == status for row in rows) for status in ("done", "failed"))
    sentences = [f"{done} of {len(rows)} rows done" + (f", {failed} failed (see “What failed”)." if failed else ".")]
    for search in results.get("searches") or []:
        sentences.append(f"{_search_name(search)}: {_verdict(search)}")
    return sentences


def _search_name(search: Mapping[str, Any]) -> str:
    parts = [search["label"], search["model"], ratio_text(search.get("ratio"), search.get("structure_ratio"))]
    return ", ".join([*parts, f"seed {search['seed']}"])


def _baselines(search: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [candidate for candidate in search["candidates"] if candidate["label"] != search["label"]]


def _verdict(search: Mapping[str, Any]) -> str:
    found = search.get("best")
    known = [candidate for candidate in _baselines(search) if candidate["value"] is not None]
    if not found or found["value"] is None:
        return "the search found no configuration."
    text = f"search objective {perplexity_text(found['value'])}"
    if not known:
        return text + "."
    rival = min(known, key=lambda candidate: candidate["value"])
    gap = 1 - found["value"] / rival["value"]
    against = f"the best baseline ({rival['label']}, {perplexity_text(rival['value'])})"
    if gap == 0:
        return f"{text}, that of {against}: no trial was better."
    return f"{text}, {abs(100 * gap):.1f} % {'below' if gap > 0 else 'above'} {against}."


def searches(results: Results) -> list[dict[str, Any]]:
    """For each search `name`, `sentences`, and tables of `candidates`, `parameters` and `samples`."""
    return [
        {
            "name": _search_name(search),
            "sentences": _search_sentences(search),
            "candidates": _candidates(search),
            "parameters": _parameters(search),
            "samples": _samples(search),
        }
        for search in results.get("searches") or []
    ]


def _search_sentences(search: Mapping[str, Any]) -> list[str]:
    trials = search["trials"]
    states: dict[str, int] = {}
    for trial in trials:
        state = {"complete": "done", "fail": "failed"}.get(trial["state"].lower(), trial["state"].lower())
        states[state] = states.get(state, 0) + 1
    counted = ", ".join(f"{count} {state}" for state, count in states.items())
    texts = {
        "search": "searched on texts of their own, disjoint from those that the table reports on",
        "report": "searched on the texts that the table reports on, as the paper does",
    }
    sentences = [
        f"Objective (lower is better): {search['objective']}; {texts.get(search['split'], search['split'])}.",
        f"{len(trials)} trials ({counted or 'none'}) in {seconds_text(search['seconds'])}: {_verdict(search)}",
    ]
    near = first_within(trials, 0.02)
    if near is not None:
        sentences.append(f"The best so far is within 2 % of the final best from trial {near} on.")
    return sentences


def first_within(trials: Sequence[Mapping[str, Any]], share: float) -> int | None:
    """The number of the first trial whose value is at most (1 + share) times the best trial's."""
    values = [(trial["number"], trial["value"]) for trial in trials if trial["value"] is not None]
    if not values:
        return None
    limit = (1 + share) * min(value for _, value in values)
    return next(number for number, value in values if value <= limit)


def _candidates(search: Mapping[str, Any]) -> Table:
    """The search's best and every baseline on the same texts, in order, with the share of trials that beat each."""
    table = Table(["Candidate", "Objective↓", "Against the best", "Trials below it"], "lrrr")
    values = [trial["value"] for trial in search["trials"] if trial["value"] is not None]
    lines = [(search["label"], (search.get("best") or {}).get("value"))]
    lines += [(candidate["label"], candidate["value"]) for candidate in _baselines(search)]
    found = search.get("best") or {}
    bold = best([None if v is None else (v, perplexity_text(v)) for _, v in lines], higher_is_better=False)
    order = sorted(range(len(lines)), key=lambda i: (lines[i][1] is None, lines[i][1] or 0.0, i))
    for i in order:
        label, value = lines[i]
        if value is None:
            table.add(label, "failed", None, None)
            continue
        below = sum(v < value for v in values)
        gap = "" if i == 0 or found.get("value") is None else f"{100 * (value / found['value'] - 1):+.1f}%"
        table.add(label, Cell(perplexity_text(value), i in bold), gap, f"{below} of {len(values)}")
    return table


def _parameters(search: Mapping[str, Any]) -> Table:
    found = search.get("best") or {}
    table = Table(["Parameter", "Value"], "ll")
    origin = f"trial {found['number']}" if found.get("number") is not None else "a baseline, not a trial"
    if found:
        table.add("from", f"{found.get('label') or search['label']} ({origin})")
    for name, value in (found.get("params") or {}).items():
        table.add(name, f"{value:.6g}" if isinstance(value, float) else _flat(value))
    return table


def _flat(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _samples(search: Mapping[str, Any]) -> Table:
    table = Table(["Passage", "It begins"], "rp")
    for sample in (search.get("best") or {}).get("samples") or []:
        text = " ".join(sample["text"].split())
        table.add(str(sample["index"]), text if len(text) <= 110 else text[:110].rsplit(" ", 1)[0] + " …")
    return table


def environment_table(results: Results) -> Table:
    """The machine and the versions that the numbers were made with."""
    found = dict(results["environment"])
    packages = found.pop("packages", {})
    table = Table(["What", "Value"], "lp")
    others = found.pop("others", 0)
    names = {"cpu": "CPU", "cpu_count": "CPU cores"}
    for name, value in found.items():
        table.add(names.get(name, name.capitalize()), None if value is None else str(value))
    if others:
        table.add("Elsewhere", f"{others} of the artifacts were made on another machine or with other versions")
    if packages:
        table.add("Packages", ", ".join(f"{name} {version}" for name, version in packages.items()))
    return table


def choices_table(results: Results) -> Table:
    table = Table(["What", "Choice"], "lp")
    for choice in results.get("choices") or []:
        table.add(choice["topic"], choice["text"])
    return table


def provenance_table(results: Results) -> Table:
    """Each row's parameters left and the keys (their first 12 digits) of the stages in the store that made it."""
    table = Table(["Row", "Parameters", "Stages"], "prp")
    models = len({row["model"] for row in results["rows"]}) > 1
    for row in results["rows"]:
        stages = ", ".join(f"{role} {str(key)[:12]}" for role, key in (row.get("stages") or {}).items())
        params = row.get("params")
        table.add(row_name(row, models), None if params is None else f"{params:,}", stages or None)
    return table


def command(results: Results) -> str:
    """The command that runs this again: `results["command"]` (a list of arguments) if given, else name and profiles."""
    if results.get("command"):
        return one_line(shlex.join(str(part) for part in results["command"]))
    profiles = [part for name in results.get("profile") or [] for part in ("--profile", str(name))]
    return one_line(shlex.join(["reproduce", f"specs/{results['spec']['name']}.yaml", *profiles]))
