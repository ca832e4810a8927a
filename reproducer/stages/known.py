"""What an earlier run has finished, taken from its results.json in place of being run again.

A stage's key names its whole recipe: what the file holds of a stage with the same key is that stage's result. Times
hold for the machine that they were taken on, so measures of a device run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from reproducer.errors import UserError
from reproducer.evaluation.measured import Measured
from reproducer.facts import read_results
from reproducer.queue import Stage
from reproducer.stages.measure import Measure
from reproducer.stages.results import CalibrationUse, Earlier, Results, Search
from reproducer.stages.results import Row as FinishedRow

if TYPE_CHECKING:
    from reproducer.stages.expand import Row


@dataclass(frozen=True)
class Known:
    """The finished rows of a results.json.

    Attributes:
        path: of the file, for a person.
        results: what it holds; None: there is no file, and nothing is known.
    """

    path: Path = Path()
    results: Results | None = None

    @classmethod
    def read(cls, path: Path) -> Known:
        """UserError: there is no such file, or it is no results.json."""
        return cls(path, read_results(Results, path, str(path)))

    @cached_property
    def _finished(self) -> list[FinishedRow]:
        return [row for row in self.results.rows if row.status == "done"] if self.results else []

    @cached_property
    def _measured(self) -> dict[str, Measured]:
        """Results by the keys of the stages that measured them."""
        return {row.stages[name]: result for row in self._finished for name, result in row.measured.items()}

    @cached_property
    def _rows(self) -> dict[frozenset[tuple[str, str]], FinishedRow]:
        """Rows by the stages that made their models, by role and key."""
        return {
            frozenset((role, key) for role, key in row.stages.items() if role not in row.measured): row
            for row in self._finished
        }

    def measured(self, stage: Stage) -> Measured | None:
        """The result of a measuring stage."""
        of_device = isinstance(stage, Measure) and stage.of_device
        return None if of_device else self._measured.get(stage.key)

    def row(self, row: Row) -> FinishedRow | None:
        """The file's row of the same model, whatever was measured of it."""
        return self._rows.get(frozenset((role, stage.key) for role, stage in row.making.items()))

    def search(self, stage: Stage) -> Search | None:
        """The search of a stage."""
        searches = self.results.searches if self.results else []
        return next((search for search in searches if search.stage == stage.key), None)

    def missing(self, row: Row) -> list[Stage]:
        """The stages of a row that have to run."""
        making = [] if self.row(row) else list(row.making.values())
        return making + [stage for stage in row.measures.values() if self.measured(stage) is None]

    def pool(self, use: CalibrationUse) -> CalibrationUse:
        """A use of calibration data with the size of the pool, where the file knows it."""
        uses = self.results.calibration if self.results else []
        return next((one for one in uses if one.model_copy(update={"pool": None}) == use), use)

    @property
    def earlier(self) -> list[Earlier]:
        """The runs that rows were taken over from, this file's last."""
        if self.results is None:
            return []
        file = Earlier(command=self.results.command, environment=self.results.environment, seconds=self.results.seconds)
        return [*self.results.earlier, file]

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
