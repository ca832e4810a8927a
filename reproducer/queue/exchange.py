"""Between the local store and the remote that it shares artifacts with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from reproducer.errors import UserError
from reproducer.queue.artifact import Artifact, Damaged, misfit
from reproducer.queue.remote import Remote
from reproducer.queue.stage import Stage, topological
from reproducer.queue.store import Store

POLL_SECONDS = 0.1  # how often it is asked for a lock of the local store

Say = Callable[[str], None]


def agree(
    store: Store,
    remote: Remote,
    stage: Stage,
    mine: Artifact | None,
    inputs: Mapping[str, Artifact],
    fingerprints: Mapping[str, str],
    say: Say,
) -> Artifact | None:
    """Make the store and the remote have one artifact of a stage, whose lock in the store this process holds.

    It is the newest that the remote has and that fits the inputs and fingerprints, or else `mine`, which is uploaded.

    Args:
        mine: what the store has, if it can be used.
        say: gets what is to be known about the stage.
    Returns:
        The artifact, in the store; None: neither has one, and the stage is to be run.
    """
    while True:
        versions = remote.versions([stage])[stage.key]
        if mine is not None and versions.have(mine):
            return mine
        fitting = (one for one in versions.records.items() if misfit(one[1], inputs, fingerprints) is None)
        number, record = next(fitting, (0, {}))
        if not record:
            if mine is None or remote.publish(mine, versions.newest + 1):
                return mine
            continue  # another one was quicker: it is looked at
        try:
            found = store.receive(stage, record, remote)
        except Damaged as why:
            remote.mark_damaged(stage.key, number, str(why), versions.newest)
            say(f"version {number} at the remote is damaged and is not used: {why}")
            continue
        if mine is not None:
            say("another machine's artifact, which is at the remote, is taken; this one's is kept in corrupt/")
        return found


def bring(
    store: Store, remote: Remote, stage: Stage, wanted: Callable[[dict[str, Any]], bool], say: Say, wait: bool = False
) -> Artifact | None:
    """The artifact of a stage in the store, fetched from the remote where need be; its lock is taken for so long.

    Args:
        wanted: which record will do.
        wait: for the lock, if another process has it.
    Returns:
        None: the remote has none either, or the lock is another's.
    """
    with store.lock(stage) as lock:
        while not lock.acquire():
            if not wait:
                return None
            time.sleep(POLL_SECONDS)
        mine = store.inspect(stage, {})
        if isinstance(mine, Artifact) and wanted(mine.record):
            return mine
        versions = remote.versions([stage])[stage.key]
        for number, record in versions.records.items():
            if wanted(record):
                try:
                    return store.receive(stage, record, remote)
                except Damaged as why:
                    say(f"{stage.label}: version {number} at the remote is damaged: {why}")
                    with suppress(UserError):  # of a remote that may only be read
                        remote.mark_damaged(stage.key, number, str(why), versions.newest)
    return None


def fetch(stages: Iterable[Stage], store: Store, remote: Remote, device: str | None, say: Say) -> list[Artifact]:
    """Bring into the store what it lacks of `stages` and the remote has; nothing that is there is replaced.

    Args:
        device: where given, today's fingerprints for it are compared, as a run would.
    Returns:
        What was fetched.
    """
    ordered = topological(stages)
    there = remote.versions(ordered)
    found: dict[str, Artifact] = {}
    fetched = []
    if any(there[stage.key].records and store.read(stage) is None for stage in ordered):
        store.prepare()
    for stage in ordered:
        artifact = store.read(stage)
        if artifact is None and there[stage.key].records and all(one.key in found for one in stage.inputs.values()):
            inputs = {name: found[needed.key] for name, needed in stage.inputs.items()}
            try:
                today = None if device is None else stage.fingerprints(device)
            except UserError:  # said when the stage is to run
                continue
            artifact = bring(store, remote, stage, lambda one: misfit(one, inputs, today) is None, say)  # noqa: B023
            fetched += [artifact] if artifact else []
        if artifact is not None:
            found[stage.key] = artifact
    return fetched
