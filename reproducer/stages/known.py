"""Rows that an earlier run has finished, taken over from its results.json in place of being run again.

A stage's key names its whole recipe, so a finished row whose stages have the keys of this run's is the same row. Times
hold for the machine that they were taken on: rows with such stages run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reproducer.errors import UserError
from reproducer.facts import Facts, read_results
from reproducer.stages import results as facts
from reproducer.stages.base import Measure

if TYPE_CHECKING:
    from reproducer.stages.expand import Row

AVERAGE = "average_acc"
BEYOND_COLUMNS: dict[str, Any] = {"generations": [], "latency": None, "speed": None, "gguf": []}  # of a row: none
MAKING = {"model", "search", "transfer", "training", "plan", "recovery"}  # roles of the stages that are no measures
COUNTED = ("pool", "windows", "items", "majority", "steps", "examples", "runs")  # fields of a use that only a run knows
Use = TypeVar("Use", bound=Facts)


@dataclass(frozen=True)
class Known:
    """The finished rows of a results.json.

    Attributes:
        path: of the file, for a person.
        results: what it holds; None: there is no file, and no row is known.
    """

    path: Path = Path()
    results: facts.Results | None = None

    @classmethod
    def read(cls, path: Path) -> Known:
        """UserError: there is no such file, or it is no results.json."""
        return cls(path, read_results(facts.Results, path, str(path)))

    def find(self, row: Row) -> facts.Row | None:
        """The file's row of the same stages; if there is none, one that was measured in more ways.

        What fills no column, such as generated text, is not told apart: `row` has all of it, or none.
        """
        if self.results is None or any(isinstance(one, Measure) and one.of_device for one in row.stages.values()):
            return None
        keys, columns = {role: stage.key for role, stage in row.stages.items()}, {one.key for one in row.columns}
        fitting = [
            one
            for one in self.results.rows
            if one.status == "done" and keys.items() <= one.stages.items() and columns <= one.metrics.keys()
        ]
        exact = next((one for one in fitting if len(one.stages) == len(keys)), None)
        return exact or next((one for one in fitting if _measured_more(one, row)), None)

    def take(self, row: Row) -> facts.Row | None:
        """The row as a row of this run, with its measures alone and without its average; None if it is not known."""
        if (one := self.find(row)) is None or self.results is None:
            return None
        columns = row.columns
        keys, sources = {column.key for column in columns}, {column.source for column in columns}
        more = _more(one, row)
        return facts.Row.model_validate(
            {
                **dict(one),
                **row.facts,
                "stages": {role: stage.key for role, stage in row.stages.items()},
                "metrics": {column.key: one.metrics[column.key] for column in columns},
                "window_losses": {name: value for name, value in one.window_losses.items() if name in keys},
                "task_scores": {name: value for name, value in one.task_scores.items() if name in sources},
                "items": {name: value for name, value in one.items.items() if name in sources},
                **(BEYOND_COLUMNS if more - one.metrics.keys() else {}),
                # what single measures took is not in the file
                "seconds": None if more else one.seconds,
                "peak_memory_bytes": None if more else one.peak_memory_bytes,
                "earlier": one.earlier if one.earlier is not None else len(self.results.earlier),
            }
        )

    def model(self, dense: Row) -> facts.Model | None:
        """What the file says of the model of a dense row that is known."""
        if (one := self.find(dense)) is None or self.results is None:
            return None
        return next((model for model in self.results.models if model.name == one.model), None)

    def search(self, row: Row) -> facts.Search | None:
        """The search that a row of this run rests on, if a finished row of the file made it."""
        key = stage.key if (stage := row.stages.get("search") or row.stages.get("transfer")) else None
        if self.results is None or key is None:
            return None
        rows = [one for one in self.results.rows if one.status == "done"]
        made = {_as_made(one) for one in rows if one.stages.get("search") == key}
        found = next((one for one in self.results.searches if _as_made(one) in made), None)
        # one that no row of the file made itself is told under the label of a row that took it over
        over = {(one.label, one.seed) for one in rows if one.stages.get("transfer") == key}
        return found or next((one for one in self.results.searches if (one.label, one.seed) in over), None)

    def use(self, use: Use) -> Use:
        """What was used where a known row was made: `use` as the file has it, which knows the numbers."""
        found = self.results
        known: list[Any] = [*found.texts, *found.tasks, *found.calibration, *found.recoveries] if found else []
        fitting = [one for one in known if type(one) is type(use) and _agree(use, one)]
        told: Use = min([*fitting, use], key=unknowns)
        return told.model_copy(update={"runs": 1}) if isinstance(told, facts.RecoveryUse) else told

    @property
    def earlier(self) -> list[facts.Earlier]:
        """The runs that rows were taken over from, this file's last."""
        found = self.results
        if found is None:
            return []
        this = facts.Earlier(command=found.command, environment=found.environment, seconds=found.seconds)
        return [*found.earlier, this]

    @property
    def sources(self) -> dict[str, str]:
        """What the file's run read, by name, with its digest."""
        return {source.name: source.digest for source in self.results.sources} if self.results else {}

    def check(self, read: Mapping[str, str]) -> None:
        """UserError if this run reads other data than the file's did: rows of both cannot be compared."""
        known = self.sources
        others = sorted(name for name, digest in read.items() if known.get(name, digest) != digest)
        if others:
            raise UserError(
                f"other data than here was read for {self.path}: {', '.join(others)}",
                "leave --known out, so that all rows run; built-in texts differ from one Python version to another",
            )


def _more(one: facts.Row, row: Row) -> set[str]:
    """Roles of the stages that a row of the file has more."""
    return one.stages.keys() - row.stages.keys()


def _measured_more(one: facts.Row, row: Row) -> bool:
    """Whether what a row of the file has more are measures, and can be left out.

    It can if they are columns, as perplexities and accuracies are, or if `row` has nothing but columns.
    """
    more = _more(one, row)
    keys = {column.key for column in row.columns}
    plain = all(role in keys for role, stage in row.stages.items() if isinstance(stage, Measure))
    return not more & MAKING and (more <= one.metrics.keys() or plain)


def _as_made(one: facts.Row | facts.Search) -> tuple[Any, ...]:
    return one.model, one.label, one.ratio, one.structure_ratio, one.seed


def unknowns(use: Any) -> int:
    """How much a use leaves open."""
    return sum(value is None for value in vars(use).values())


def _agree(use: Any, known: Any) -> bool:
    """Whether the settings are the same."""
    return all(value == getattr(known, name) for name, value in vars(use).items() if name not in COUNTED)
