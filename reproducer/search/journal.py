"""The journal in which Optuna keeps the studies of a search, and what is asked of these."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from reproducer.errors import UserError

FILE = "study.journal"
LINE_START = b'{"op_code":'  # of every line of a journal
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Journal(JournalFileBackend):
    """Optuna's journal in a file. It differs in how lines are appended.

    One process at a time appends, under a lock that the system releases when the process ends: Optuna's own lock
    outlives a killed process and makes others wait for half a minute. If a full disk or a power cut left a part of a
    line, it is cut off first: nobody has used it, and a line behind it could not be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path, self.lock = path, FileLock(f"{path}.flock")  # `.lock` is Optuna's own

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode()
        with self.lock, self.path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.truncate(_end_of_lines(self.path.read_bytes()))
            file.seek(0, os.SEEK_END)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


def _end_of_lines(content: bytes) -> int:
    """Where the last complete line of a journal ends; ValueError if what follows is no beginning of a line."""
    end = content.rfind(b"\n") + 1
    if not (content[end:].startswith(LINE_START) or LINE_START.startswith(content[end:])):
        raise ValueError("this is not a journal of Optuna")
    return end


def open_study(directory: Path, name: str) -> optuna.Study:
    """A study of the search in `directory`, created if it is not there.

    Raises:
        UserError: the journal is damaged; it is left as it is.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = directory / FILE
    try:
        storage = JournalStorage(Journal(path))
        study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True, direction="minimize")
        study.get_trials(deepcopy=False)
    except Exception as error:
        raise UserError(
            f"the search's study {path.name} cannot be read: {type(error).__name__}",
            f"move {path} away to search again from the start; it is left as it is",
        ) from error
    return study


def fail_unfinished(study: optuna.Study) -> None:
    """Mark the trials of processes that have died as failed. To be called while no other process works on the study."""
    for _ in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.ask()  # it was put in the queue and not taken up; Optuna ends no trial that has not begun
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count, stopped ones among them."""
    return study.get_trials(deepcopy=False, states=DONE)


def best_of(studies: Sequence[optuna.Study]) -> FrozenTrial | None:
    """The complete trial with the lowest value, the earliest of equals."""
    complete = [t for study in studies for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    return min(complete, key=lambda trial: trial.value or 0.0, default=None)
