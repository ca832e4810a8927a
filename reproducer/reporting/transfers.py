"""Rows whose configuration, samples and metric, was found on another model or at another ratio, and how they fare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reproducer.paper import method
from reproducer.reporting.comparison import Standing, standings
from reproducer.reporting.rows import CUT, Line
from reproducer.stages.results import Model, Results


@dataclass(frozen=True)
class Transfer:
    """A transferred line beside the best baseline of its model.

    Attributes:
        standing: on the mean of the perplexities.
        on, source: the model that was pruned, and the one that was searched on.
        found_at: the cut that was searched at, `ratio` and `structure_ratio`.
    """

    standing: Standing
    on: Model | None
    source: str
    found_at: Mapping[str, float | None]

    @property
    def is_random(self) -> bool:
        """Whether the pruned model has random weights, on which no configuration can be good."""
        return self.on is not None and self.on.source.get("kind") in ("random", "drawn")


def is_transferred(line: Line) -> bool:
    return "transfer" in line.rows[0].stages


def transfers(results: Results) -> list[Transfer]:
    """Every transferred line once, in the order of the specs that have it."""
    models = {model.name: model for model in results.models}
    found: dict[tuple[Any, ...], Transfer] = {}
    for run in [results.of_part(part) for part in results.parts] or [results]:
        told = dict(given(run.spec))
        for one in standings(run):
            line = one.line
            if is_transferred(line) and line.label in told:
                own = told[line.label]
                place = {name: own.get(name) for name in ("ratio", "structure_ratio")}
                at = (
                    place
                    if any(value is not None for value in place.values())
                    else {name: line[name] for name in place}
                )
                name = own.get("model") or line.model
                source = models[name].label if name in models else name
                key = (*(line[name] for name in CUT), line.label)
                found.setdefault(key, Transfer(one, models.get(line.model), source, at))
    return list(found.values())


def given(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """By label the methods of a spec that use what was searched elsewhere, and where that was."""
    common = (spec.get("search") or {}).get("transfer")
    for entry in spec.get("methods") or []:
        own = (entry.get("search") or {}).get("transfer", common)
        if own:
            yield entry.get("label") or (method().label if entry["name"] == method().name else entry["name"]), own
