"""Where Optuna keeps the studies of a search: in a journal among its files, or in a database."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from reproducer.errors import UserError

STUDIES = "REPRODUCER_STUDIES"  # the variable: the URL of a database
JOURNAL, TOKEN, SQLITE = "study.journal", "study.token", "study.db"
BUSY_SECONDS = 60  # that a process waits for another one that writes to SQLite
BEGINS = b'{"op_code":'  # every line of a journal


class Journal(JournalFileBackend):
    """Optuna's journal in a file. It differs in how lines come into it.

    One process at a time appends, under a lock of the system as a stage's, which ends with its process: Optuna's own
    outlives a killed one, and makes others wait for half a minute. A line of which a full disk or a power cut left a
    part is cut off first: nothing has used it, and the next line would not be read behind it.
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
    """Where the last whole line of a journal ends; ValueError if what is behind it is no part of one."""
    end = content.rfind(b"\n") + 1
    if not (content[end:].startswith(BEGINS) or BEGINS.startswith(content[end:])):
        raise ValueError("this is not a journal of Optuna")
    return end


def storage_in(directory: Path) -> tuple[BaseStorage, str]:
    """The storage of the search in `directory`, and what its studies' names begin with.

    A search goes on where it was begun, which of earlier versions may be SQLite: there, what Optuna does of a trial
    beside the search takes 0.2 s, and 0.04 s in a journal. A new one is kept in a journal, or in the database that
    REPRODUCER_STUDIES names.

    Raises:
        UserError: it was begun in a database, and REPRODUCER_STUDIES names none.
    """
    where = os.environ.get(STUDIES, "")
    begun = next((name for name in (SQLITE, JOURNAL, TOKEN) if (directory / name).exists()), None)
    if begun == TOKEN and not where:
        raise UserError(
            f"the search in {directory} was begun in a database",
            f"name it in {STUDIES}, or move {directory} away to search again from the start",
        )
    if begun == SQLITE:
        wait = {"connect_args": {"timeout": BUSY_SECONDS}}
        return RDBStorage(f"sqlite:///{directory / SQLITE}", engine_kwargs=wait), ""
    if begun == JOURNAL or not where:
        return JournalStorage(Journal(directory / JOURNAL)), ""
    prefix = f"{_token(directory)}/"
    return RDBStorage(where, engine_kwargs={"pool_pre_ping": True}), prefix


def unreadable(directory: Path, error: Exception) -> UserError:
    """What to tell of an error of the storage; without a database's password."""
    if (directory / TOKEN).exists():
        reason = str(error).partition("\n")[0] if isinstance(error, ImportError | SQLAlchemyError) else ""
        return UserError(
            f"the database of {STUDIES} cannot be used: {type(error).__name__} {reason}".rstrip(),
            "see that it runs, and that its driver is installed: for PostgreSQL `pip install 'psycopg[binary]'`",
        )
    path = directory / (SQLITE if (directory / SQLITE).exists() else JOURNAL)
    return UserError(
        f"the search's study {path.name} cannot be read: {type(error).__name__}",
        f"move {path} away to search again from the start; it is left as it is",
    )


def _token(directory: Path) -> str:
    """Names this very attempt: when the folder of a stage is emptied, its studies begin anew too."""
    path = directory / TOKEN
    if not path.exists():  # this is the one process that began; others join later
        path.write_text(f"{directory.name}-{uuid.uuid4().hex[:12]}", encoding="utf-8")
    return path.read_text(encoding="utf-8")
