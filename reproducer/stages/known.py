"""Rows that an earlier run has finished, taken over from its results.json in place of being run again.

A stage's key names its whole recipe, so a finished row whose stages have the keys of this run's is the same row. Times
hold for the machine that they were taken on: rows with such stages run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from reproducer.errors import UserError
from reproducer.stages import results as facts
from reproducer.stages.base import Measure

if TYPE_CHECKING:
    from reproducer.stages.expand import Row

AVERAGE = "average_acc"
BEYOND_COLUMNS: dict[str, Any] = {"generations": [], "latency": None, "speed": None, "gguf": []}  # of a row: none
Use = TypeVar("Use", facts.TextUse, facts.TaskUse, facts.CalibrationUse, facts.RecoveryUse)


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
        try:
            return cls(path, facts.Results.model_validate_json(path.expanduser().read_bytes()))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise UserError(f"{path} is no results.json: {place}: {first['msg']}") from None
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} cannot be read: {error}", "name the results.json of a finished run") from None

    def find(self, row: Row) -> facts.Row | None:
        """The file's row of the same stages; if there is none, one that was measured in more ways.

        What fills no column, such as generated text, is not told apart: `row` has all of it, or none.
        """
        if self.results is None or any(stage.timed for stage in row.stages.values()):
            return None
        keys = {role: stage.key for role, stage in row.stages.items()}
        fitting = [one for one in self.results.rows if one.status == "done" and keys.items() <= one.stages.items()]
        exact = next((one for one in fitting if len(one.stages) == len(keys)), None)
        return exact or next((one for one in fitting if _more(one, row) <= one.metrics.keys() or _plain(row)), None)

    def take(self, row: Row, columns: list[facts.Column]) -> facts.Row | None:
        """The row as a row of this run, with its measures alone and without its average; None if it is not known.

        Args:
            columns: of the row.
        """
        if (one := self.find(row)) is None or self.results is None:
            return None
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
                "seconds": None if more else one.seconds,  # what single measures took is not in the file
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
        made = {
            (one.model, one.label, one.ratio, one.structure_ratio, one.seed)
            for one in self.results.rows
            if one.status == "done" and one.stages.get("search") == key
        }
        for search in self.results.searches:
            if (search.model, search.label, search.ratio, search.structure_ratio, search.seed) in made:
                return search
        return None

    def use(self, use: Use) -> Use:
        """What was used where a known row was made: `use` as the file has it, which knows the numbers."""
        found = self.results
        known: list[Any] = [*found.texts, *found.tasks, *found.calibration, *found.recoveries] if found else []
        fitting = [one for one in known if type(one) is type(use) and _agree(use, one)]
        return min([*fitting, use], key=unknowns)

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
                "run its rows again, without --known; built-in texts differ from one Python version to another",
            )


def _more(one: facts.Row, row: Row) -> set[str]:
    """Roles of the stages that a row of the file has more."""
    return one.stages.keys() - row.stages.keys()


def _plain(row: Row) -> bool:
    """Whether each of its measures is one column, as perplexities and accuracies are."""
    keys = {column.key for column in row.columns}
    return all(role in keys for role, stage in row.stages.items() if isinstance(stage, Measure))


def unknowns(use: Any) -> int:
    """How much a use leaves open."""
    return sum(value is None for value in vars(use).values())


def _agree(use: Any, known: Any) -> bool:
    """Whether `known` says the same where `use` says anything; `runs` are counts of their own."""
    return all(value in (None, getattr(known, name)) for name, value in vars(use).items() if name != "runs")
