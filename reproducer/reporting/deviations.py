"""What a run does otherwise than the paper: both sides in the same words, those that agree left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from reproducer.paper.catalogue import method
from reproducer.paper.claims import paper
from reproducer.reporting.comparison import reproduced, stands_for_any
from reproducer.reporting.numbers import percent1, setting, short
from reproducer.reporting.searches import counted
from reproducer.stages.results import Results, Settings


@dataclass(frozen=True)
class Deviation:
    """Something that differs: its topic, the paper's words and ours as they will read."""

    topic: str
    paper: str
    ours: str


def deviations(results: Results) -> list[Deviation]:
    """In the order of the paper's conditions; none of a run that reproduces nothing of it."""
    if not reproduced(results):
        return []
    both = [(topic, theirs, OURS[topic](results)) for topic, theirs in paper().conditions.items()]
    return [Deviation(topic, theirs or "not stated", ours) for topic, theirs, ours in both if ours and ours != theirs]


def _models(results: Results) -> str:
    known, stand = paper().models, stands_for_any(results)
    others = [model for model in results.models if model.name in stand and model.name not in known]
    return _once(
        f"{model.label} for {known[stand[model.name]]}, {_count(model.parameters)} parameters in {model.dtype}"
        for model in others
    )


def _count(parameters: int | None) -> str:
    if parameters is None:
        return "an unknown number of"
    scale, name = (1e9, "billion") if parameters >= 1e9 else (1e6, "million")
    return f"{parameters / scale:.3g} {name}"


def _cuts(results: Results) -> str:
    """By the ratio that was asked for, what rows lost of all parameters, and from which layers."""
    cuts: dict[str, str] = {}
    for row in results.rows:
        if row.params_removed is not None and row.method != "dense":
            nominal = short(row.ratio if row.ratio is not None else round(row.params_removed, 1))
            layers = row.reached.layers if row.reached else []
            where = f", from layers {layers[0]} to {layers[-1]} of {row.reached.of}" if row.reached and layers else ""
            cuts.setdefault(nominal, f"{nominal}: {percent1(row.params_removed)} of all parameters{where}")
    return _once(cuts.values())


def _calibration(results: Results) -> str:
    """What the spec calibrates on, not what a control or a method of its own does."""
    common: Any = _spec(results).get("calibration")
    samples = common.get("samples") if isinstance(common, dict) else None
    uses = [use for use in results.calibration if use.split == "calibration" and samples in (None, use.samples)]
    return _once(f"{use.samples} samples of {use.length} tokens of {use.dataset}" for use in uses)


def _spec(results: Results) -> Settings:
    """The spec, or the first that a document includes."""
    return results.parts[0].spec if results.parts else results.spec


def _search(results: Results) -> str:
    """The searches of the paper's own method that go the paper's way."""
    return _once(
        f"{counted(one)} trials by {str(one.settings.get('sampler')).upper()}; perplexity on "
        f"{one.settings.get('windows')} windows each of {' and '.join(one.texts)}"
        for one in results.searches
        if one.label == method().label and one.settings.get("mode") == "paper"
    )


def _texts(results: Results) -> str:
    unseen = [column.source for column in results.columns if column.unseen]
    return _once(
        f"{text.label} ({'all' if text.windows is None else text.windows} windows of {text.seq_len} tokens)"
        for text in results.texts
        if text.name not in unseen
    )


def _tasks(results: Results) -> str:
    counts = sorted({task.items for task in results.tasks if task.items is not None})
    items = f", {' to '.join(map(str, dict.fromkeys([counts[0], counts[-1]])))} items each" if counts else ""
    return f"{', '.join(task.label for task in results.tasks)}{items}" if results.tasks else ""


def _recovery(results: Results) -> str:
    return _once(
        f"{one.label or one.name} on {setting(one.settings.get('dataset'))}, {one.steps} steps of batches of "
        f"{one.settings.get('batch')}, learning rate {setting(one.settings.get('learning_rate'))}"
        for one in results.recoveries
        if one.steps is not None
    )


def _once(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


OURS: dict[str, Callable[[Results], str]] = {
    "Models": _models,
    "Cut": _cuts,
    "Calibration": _calibration,
    "Search": _search,
    "Texts of perplexities": _texts,
    "Tasks": _tasks,
    "Recovery": _recovery,
    "Seeds": lambda results: ", ".join(map(str, sorted({row.seed for row in results.rows}))),
    "Device of the times": lambda results: _once(row.latency.device for row in results.rows if row.latency),
}
