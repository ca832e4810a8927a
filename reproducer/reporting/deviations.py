"""What a run does otherwise than the paper: both sides in the same words, those that agree left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from reproducer.paper import Conditions, Paper, method
from reproducer.reporting.comparison import stands_for_any
from reproducer.reporting.numbers import percent1, setting, short
from reproducer.reporting.searches import counted
from reproducer.stages.results import CalibrationUse, Model, Results, Search, Settings

UNSAID = "not stated"


@dataclass(frozen=True)
class Deviation:
    """Something that differs: its topic (`TOPICS`), a name for it, the paper's value and ours as they will read."""

    topic: str
    item: str
    paper: str
    ours: str


TOPICS = {
    "model": "Model",
    "weights": "Weights",
    "cut": "Cut",
    "layers": "Pruned layers",
    "calibration": "Calibration",
    "trials": "Trials of a search",
    "sampler": "Sampler",
    "search_texts": "Texts that a search measures on",
    "texts": "Texts of perplexities",
    "tasks": "Tasks",
    "items": "Items of a task",
    "prompts": "Prompts",
    "recovery": "Recovery",
    "tuned_on": "Tuned on",
    "examples": "Examples of the tuning",
    "learning_rate": "Learning rate",
    "optimizer": "Optimiser",
    "seeds": "Seeds",
    "device": "Device of the times",
}


def deviations(results: Results, paper: Paper) -> list[Deviation]:
    """All of a run's, in the order of `TOPICS`; a topic that the run has nothing of is left out."""
    found = []
    for topic, theirs, ours in _both(results, paper.conditions):
        if ours is not None and ours != theirs:
            found.append(Deviation(topic, TOPICS[topic], theirs or UNSAID, ours))
    return sorted(dict.fromkeys(found), key=lambda one: list(TOPICS).index(one.topic))


def _both(results: Results, told: Conditions) -> Iterator[tuple[str, str | None, str | None]]:
    """A topic with the paper's words and ours."""
    models = stands_for_any(results)
    for model in results.models:
        if (known := told.models.get(models.get(model.name, ""))) is not None:
            yield "model", f"{known.label}, {known.parameters} parameters", _model(model)
            yield "weights", known.weights, _weights(model)
    for ratio, reached in _cuts(results).items():
        if (cut := told.cuts.get(ratio)) is not None:
            yield "cut", _cut(cut.layer, cut.whole), reached
    yield "layers", told.layers, _layers(results)
    for use in results.calibration:
        if use.split == "calibration" and _of_paper(use, results):
            yield "calibration", told.calibration, f"{use.samples} samples of {use.length} tokens of {use.dataset}"
    for one in _paper_searches(results):
        yield "trials", told.trials, str(counted(one))
        yield "sampler", told.sampler, str(one.settings.get("sampler")).upper()
        yield "search_texts", told.search_texts, _search_texts(one)
    unseen = [column.source for column in results.columns if column.unseen]
    texts = [
        f"{text.label} ({_windows(text.windows, text.limit, text.seq_len)})"
        for text in results.texts
        if text.name not in unseen
    ]
    yield "texts", told.texts, _joined(texts)
    yield "tasks", told.tasks, ", ".join(task.label for task in results.tasks) or None
    counts = sorted({task.items for task in results.tasks if task.items is not None})
    yield "items", told.items, _range(counts)
    if results.tasks:
        version = results.environment.packages.get("lm-eval")
        yield "prompts", told.prompts, f"lm-eval{f' {version}' if version else ''}, no examples"
    for recovery in results.recoveries:
        given = recovery.settings
        yield "recovery", told.recovery, recovery.label or recovery.name
        yield "tuned_on", told.tuned_on, _text(given.get("dataset"))
        yield "examples", told.examples, _examples(recovery.steps, recovery.examples, given)
        yield "learning_rate", told.learning_rate, _text(given.get("learning_rate"))
    yield "seeds", told.seeds, ", ".join(map(str, sorted({row.seed for row in results.rows}))) or None
    for device in dict.fromkeys(row.latency.device for row in results.rows if row.latency):
        yield "device", told.device, device


def _model(model: Model) -> str:
    if model.parameters is None:
        return model.label
    scale, name = (1e9, "billion") if model.parameters >= 1e9 else (1e6, "million")
    return f"{model.label}, {model.parameters / scale:.3g} {name} parameters"


def _weights(model: Model) -> str:
    return f"{model.dtype}{f'; {model.notes}' if model.notes else ''}".rstrip(".")


def _cut(layer: str | None, whole: str) -> str:
    return f"{layer} of each pruned layer, {whole} of all parameters" if layer else f"{whole} of all parameters"


def _cuts(results: Results) -> dict[float, str]:
    """By the ratio that the paper names what rows of the run lost, of all parameters and, as asked, of each layer."""
    found: dict[float, str] = {}
    for row in results.rows:
        if row.params_removed is None or row.method == "dense":
            continue
        nominal = row.ratio if row.ratio is not None else round(row.params_removed, 1)
        layer = None if row.structure_ratio is None else short(row.structure_ratio)
        if row.reached is not None and row.reached.channels is not None and layer is None:
            layer = percent1(row.reached.channels)
        found.setdefault(nominal, _cut(layer, percent1(row.params_removed)))
    return found


def _layers(results: Results) -> str | None:
    prune: Any = _spec(results).get("prune")
    if not isinstance(prune, dict):
        return None
    layers = prune.get("layers")
    reached = next((row.reached for row in results.rows if row.reached and row.reached.layers), None)
    if reached is not None:
        return f"{reached.layers[0]} to {reached.layers[-1]} of {reached.of}"
    return f"{layers[0]} to {layers[1] - 1}" if layers else "the same share of the layers"


def _spec(results: Results) -> Settings:
    """The spec, or the first that a document includes."""
    return results.parts[0].spec if results.parts else results.spec


def _of_paper(use: CalibrationUse, results: Results) -> bool:
    """Whether it is what the spec calibrates on, not what a control or a method of its own does."""
    common = _spec(results).get("calibration")
    return not isinstance(common, dict) or common.get("samples") == use.samples


def _paper_searches(results: Results) -> list[Search]:
    """One search of each kind of the paper's own method, as the paper searches."""
    found: dict[Any, Search] = {}
    for search in results.searches:
        if search.method == method().name and search.settings.get("mode") == "paper":
            found.setdefault((counted(search), search.settings.get("sampler")), search)
    return [one for one in found.values() if one.label == method().label] or [*found.values()][:1]


def _search_texts(search: Search) -> str:
    split = "the report’s own split" if search.settings.get("split") == "report" else "a split of their own"
    return f"{search.settings.get('windows')} windows each of {_joined(search.texts)}, {split}"


def _windows(read: int | None, limit: int | None, length: int) -> str:
    count = read if read is not None else limit
    return f"{'all' if count is None else count} windows of {length} tokens"


def _joined(names: Sequence[str]) -> str | None:
    return " and ".join(names) or None


def _range(counts: Sequence[int]) -> str | None:
    if not counts:
        return None
    return f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def _text(value: Any) -> str | None:
    return None if value is None else setting(value)


def _examples(steps: int | None, examples: int | None, given: dict[str, Any]) -> str | None:
    if steps is None:
        return None
    batch = given.get("batch")
    seen = f", {examples:,} examples" if examples is not None else ""
    return f"{steps} steps of batches of {batch}{seen}"
