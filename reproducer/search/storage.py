"""Where Optuna keeps the studies of a search: among its files, or in a database that several machines reach."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import SQLAlchemyError

from reproducer.errors import UserError

STUDIES = "REPRODUCER_STUDIES"  # the variable: `journal`, or the URL of a database
SQLITE, JOURNAL, TOKEN = "study.db", "study.journal", "study.token"
BUSY_SECONDS = 60  # that a process waits for another one that writes


def storage_in(directory: Path, together: bool) -> tuple[BaseStorage, str]:
    """The storage of the search in `directory`, and what its studies' names begin with.

    A search goes on where it was begun. A new one is kept where REPRODUCER_STUDIES says; without that in SQLite, and as
    a journal if its workers are on several machines: SQLite's locks are not to be trusted on shared file systems.

    Args:
        together: its workers may be on several machines.
    Raises:
        UserError: it was begun in a database, and REPRODUCER_STUDIES names none.
    """
    where = os.environ.get(STUDIES) or ("journal" if together else "")
    begun = next((name for name in (SQLITE, JOURNAL, TOKEN) if (directory / name).exists()), None)
    if begun == TOKEN and where in ("", "journal"):
        raise UserError(
            f"the search in {directory} was begun in a database",
            f"name it in {STUDIES}, or move {directory} away to search again from the start",
        )
    if begun == JOURNAL or (begun is None and where == "journal"):
        path = str(directory / JOURNAL)
        return JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path))), ""
    if begun == SQLITE or not where:
        wait = {"connect_args": {"timeout": BUSY_SECONDS}}
        return RDBStorage(f"sqlite:///{directory / SQLITE}", engine_kwargs=wait), ""
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
    path = directory / (JOURNAL if (directory / JOURNAL).exists() else SQLITE)
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
