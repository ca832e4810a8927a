"""Studies of the tests need not outlive a power cut: they do not wait for the disk."""

import sqlite3

import pytest


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def hurry(connection, _):
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", hurry)
    yield
    event.remove(Engine, "connect", hurry)
