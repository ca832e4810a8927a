"""Finished artifacts in an object store, shared by machines that have a local store each.

    URL/records/<key>/<n>.json   version n of the artifact of a stage: its record; or which earlier version is damaged
    URL/files/<key>/<sha256>     what the files of its versions hold
    URL/locks/, URL/runs/        who is at a stage (leases.py)

An artifact is uploaded files first; then its record is created under the number after the newest, which succeeds for
one writer alone. So it is there whole or not at all, and of two that were made at the same time one counts: who was
late takes that one instead of its own. Files are named by what they hold, so no upload can spoil another.

Nothing is replaced. A version that turns out damaged when it is downloaded, its SHA-256 being another than recorded, is
marked by the next number, and the stage is run again, or another machine uploads its own whole copy. Versions made of
other data, such as another Python's documentation, stand beside each other, and each machine takes the newest one that
fits its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproducer.queue.artifact import Artifact, Damaged, is_record
from reproducer.queue.objects import Objects
from reproducer.queue.stage import KEY_LENGTH, Stage

LEASE_SECONDS = 60.0
_VERSION = re.compile(rf"([0-9a-f]{{{KEY_LENGTH}}})/([0-9]+)\.json")


@dataclass
class Versions:
    """The versions of a stage's artifact: the newest number, 0 for none, and the records that may be trusted."""

    newest: int = 0
    records: dict[int, dict[str, Any]] = field(default_factory=dict)  # the newest first

    def have(self, artifact: Artifact) -> bool:
        """Whether one of them is that artifact, made of the same."""
        names = ("digest", "inputs", "fingerprints")
        return any(all(one[name] == artifact.record[name] for name in names) for one in self.records.values())


class Remote:
    """The artifacts at `url`.

    Args:
        lease: seconds after which a stage is taken over from a run that has not shown any life (see `Leases`); the
            same on all machines.
    Raises:
        UserError: see `Objects`, here and in all methods.
    """

    def __init__(self, url: str, lease: float = LEASE_SECONDS) -> None:
        self.given, self.lease = url, lease
        self.objects = Objects(url)
        self.url = self.objects.url

    def keys(self) -> set[str]:
        """The keys of all stages that have versions."""
        return {match[1] for name in self.objects.names("records") if (match := _VERSION.fullmatch(name))}

    def versions(self, stages: Collection[Stage]) -> dict[str, Versions]:
        """Of each of `stages`, by key."""
        if len(stages) == 1:
            names = [f"{stage.key}/{name}" for stage in stages for name in self.objects.names(f"records/{stage.key}")]
        else:
            names = self.objects.names("records")
        found = {stage.key: Versions() for stage in stages}
        numbered = [(match[1], int(match[2])) for name in names if (match := _VERSION.fullmatch(name))]
        wanted = sorted((one for one in numbered if one[0] in found), reverse=True)
        contents = self.objects.read_all(_record(*one) for one in wanted)
        stage_of, damaged = {stage.key: stage for stage in stages}, set()
        for key, number in wanted:
            versions = found[key]
            versions.newest = max(versions.newest, number)
            record = _object(contents.get(_record(key, number), b""))
            if "damaged" in record:
                damaged.add((key, record["damaged"]))
            elif (key, number) not in damaged and is_record(record, stage_of[key]):
                versions.records[number] = record
        return found

    def publish(self, artifact: Artifact, number: int) -> bool:
        """Upload an artifact as that version; false: another one has been made meanwhile."""
        for name, digest in artifact.record["files"].items():
            self.objects.upload(artifact.directory / name, f"files/{artifact.key}/{digest}")
        return self.objects.create(_record(artifact.key, number), json.dumps(artifact.record, indent=1).encode())

    def mark_damaged(self, key: str, number: int, why: str, newest: int) -> None:
        """Write down that a version cannot be trusted; nothing happens if there are newer ones than was known."""
        mark = {"damaged": number, "why": why}
        self.objects.create(_record(key, newest + 1), json.dumps(mark).encode())

    def download(self, key: str, name: str, digest: str, path: Path) -> None:
        """The file `name` of an artifact. Damaged: it is not there. What it holds is not looked at."""
        if not self.objects.download(f"files/{key}/{digest}", path):
            raise Damaged(f"{name} is missing")


def _record(key: str, number: int) -> str:
    return f"records/{key}/{number}.json"


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
