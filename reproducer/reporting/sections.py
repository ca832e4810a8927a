"""What the report says of a run: its table, its failures, its environment. Text here is unescaped."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from reproducer.reporting import searches
from reproducer.reporting.escape import one_line
from reproducer.reporting.summary import (
    FORMATS,
    Group,
    blocks,
    bytes_text,
    deviation,
    groups,
    mean,
    ratio_text,
    recovery_text,
    seconds_text,
)
from reproducer.reporting.tables import Cell, Table, best

Results = Mapping[str, Any]
ARROWS = {True: "↑", False: "↓"}


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


def row_name(row: Mapping[str, Any], models: bool = True, seeds: bool = True) -> str:
    """`LLM-Pruner-E1, 20%, w/ tune, seed 0`, with the model before it."""
    parts = [row["model"]] * models + [row["label"]]
    if row.get("method") != "dense":
        parts += [ratio_text(row.get("ratio"), row.get("structure_ratio")), recovery_text(row["recovery"])]
    return ", ".join(parts + ([f"seed {row['seed']}"] if seeds else []))


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
    return sentences + searches.headline(results.get("searches") or []) + perplexity_verdicts(results)


def perplexity_verdicts(results: Results) -> list[str]:
    """How each AdaPruner line's mean perplexity over the report's texts stands to the best baseline of its block.

    Over the seeds that both have finished, and the texts that all of these measured.
    """
    labels = {metric["key"]: metric["label"] for metric in results["metrics"] if metric["kind"] == "perplexity"}
    sentences = []
    for block in blocks(groups(results["rows"])):
        baselines = [line for line in block if not line.dense and line.method != "adapruner"]
        for line in block:
            if line.method != "adapruner":
                continue
            pairs = [(pair, other) for other in baselines if (pair := _means(line, other, list(labels))) is not None]
            if not pairs:
                continue
            (ours, theirs, seeds), other = min(pairs, key=lambda found: found[0][1])
            gap = 100 * (ours / theirs - 1)
            name = row_name({**line.done[0], "label": line.label}, seeds=False)
            sentences.append(
                f"{name}: mean perplexity {FORMATS['perplexity'](ours)} on {' and '.join(labels.values())}, "
                f"{abs(gap):.1f} % {'below' if gap < 0 else 'above'} the best baseline’s ({other.label}, "
                f"{FORMATS['perplexity'](theirs)}); {'seeds' if len(seeds) > 1 else 'seed'} "
                f"{', '.join(map(str, seeds))}."
            )
    return sentences


def _means(line: Group, other: Group, keys: Sequence[str]) -> tuple[float, float, list[int]] | None:
    """Mean over the perplexities `keys` and over the common seeds, of both lines; None if there is no common seed."""
    mine, others = (
        {row["seed"]: [row["metrics"][key] for key in keys] for row in one.done if _measured(row, keys)}
        for one in (line, other)
    )
    seeds = sorted(mine.keys() & others.keys())
    if not seeds:
        return None
    ours, theirs = (fmean(value for seed in seeds for value in of_seed[seed]) for of_seed in (mine, others))
    return ours, theirs, seeds


def _measured(row: Mapping[str, Any], keys: Sequence[str]) -> bool:
    return bool(keys) and all(row["metrics"].get(key) is not None for key in keys)


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
