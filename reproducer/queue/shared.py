"""Whether machines see one store, and each other's locks in it."""

import uuid
from pathlib import Path
from typing import Any, Literal

from reproducer.errors import UserError
from reproducer.queue.locks import StageLock
from reproducer.queue.stage import KEY_LENGTH
from reproducer.queue.store import Store


def check_shared(store: Store, engine: Any) -> None:
    """Look from every machine of an engine whether a lock of this process is held there too.

    A file system that is not shared, or locks within each machine alone (Lustre does, unless it is mounted with
    `flock`), would let two machines run one stage at a time.

    Args:
        store: prepared.
        engine: one with calls of `everywhere`.
    Raises:
        UserError: they do not see it, with the machines.
    """
    # named as a stage's, so that it is swept away if this process is killed here
    with StageLock(store.root / "locks", uuid.uuid4().hex[:KEY_LENGTH]) as lock:
        if not lock.acquire():
            raise AssertionError("a lock of a name that nobody has")
        found = engine.everywhere(_seen, lock.path)
        lock.remove()
    if absent := [name for name, seen in found.items() if seen == "absent"]:
        hint = "take a --store in a folder that all machines share, under the same path"
        raise UserError(f"the store {store.root} is not on {', '.join(absent)}", hint)
    if free := [name for name, seen in found.items() if seen == "free"]:
        hint = "take a file system whose locks all machines share, such as NFS 4, or Lustre mounted with flock"
        raise UserError(f"locks of the store {store.root} are not seen on {', '.join(free)}", hint)


def _seen(path: Path) -> Literal["absent", "free", "held"]:
    if not path.exists():
        return "absent"
    return "free" if StageLock(path.parent, path.stem).is_free() else "held"
