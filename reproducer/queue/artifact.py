"""What the store hands out: finished artifacts, failures, and the work that is under way."""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproducer.files import write_json
from reproducer.queue.stage import Stage, canonical


class Damaged(Exception):
    """An artifact cannot be trusted; the message says why."""


@dataclass(frozen=True)
class Artifact:
    """A finished stage's files in `directory` (to be read only) and its record.

    The record holds key, kind, version, params, inputs {name: {key, digest}}, label, files {path: sha256},
    digest, seconds, peak_memory_bytes, peak_cuda_bytes (the part of it that was device memory), finished (UTC),
    run, fingerprints, facts and environment.
    """

    directory: Path
    record: dict[str, Any]

    @property
    def key(self) -> str:
        """The recipe key of the stage."""
        return str(self.record["key"])

    @property
    def digest(self) -> str:
        """SHA-256 over the names and contents of its files: what stages downstream depend on."""
        return str(self.record["digest"])

    @property
    def seconds(self) -> float:
        """Wall time of the stage, attempts that were interrupted and resumed included."""
        return float(self.record["seconds"])

    @property
    def peak_memory_bytes(self) -> int:
        """Growth of the process's memory while the stage ran, device memory included."""
        return int(self.record["peak_memory_bytes"])

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage recorded."""
        return dict(self.record["facts"])


@dataclass(frozen=True)
class Failure:
    """Why a stage failed the last time; `error` is a line, `traceback` None for a mistake that the user can mend."""

    error: str
    hint: str | None
    traceback: str | None
    when: str

    @property
    def message(self) -> str:
        """What to tell the user."""
        return self.error if self.hint is None else f"{self.error}\n{self.hint}"


@dataclass
class Work:
    """A stage's folder while it runs, and what is known of its attempts so far.

    `notes` is the file for both, None where nothing shall outlive this attempt.
    """

    directory: Path
    notes: Path | None
    basis: dict[str, Any]
    spent: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    resumed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, name: str, value: Any) -> None:
        """Add a fact. TypeError if JSON cannot hold it."""
        json.dumps(value)
        self.facts[name] = value
        self.save(self.spent)

    def save(self, spent: dict[str, Any]) -> None:
        """Write down what an attempt that goes on in this folder has to know. Also called by the meter's thread."""
        with self._lock:
            self.spent = spent
            if self.notes is not None:
                write_json(self.notes, {"basis": self.basis, "spent": self.spent, "facts": self.facts})


def files_digest(files: Mapping[str, str]) -> str:
    """One digest for {path: SHA-256}: names and contents, nothing else."""
    return hashlib.sha256(canonical(files).encode()).hexdigest()


def is_record(record: Mapping[str, Any], stage: Stage) -> bool:
    """Whether a record is complete and the stage's own."""
    dicts = ("inputs", "files", "fingerprints", "facts", "environment")
    return (
        record.get("key") == stage.key
        and isinstance(record.get("label"), str)
        and all(isinstance(record.get(name), dict) for name in dicts)
        and all(isinstance(record.get(name), int | float) for name in ("seconds", "peak_memory_bytes"))
        and all(isinstance(digest, str) for digest in record["files"].values())
        and record.get("digest") == files_digest(record["files"])
    )


def misfit(
    record: Mapping[str, Any], inputs: Mapping[str, Artifact], fingerprints: Mapping[str, str] | None
) -> str | None:
    """Why an artifact with that record does not fit today's inputs and outside sources; None: it does.

    Args:
        fingerprints: today's digests of the outside sources; None: not compared.
    """
    for name, artifact in inputs.items():
        if record["inputs"].get(name) != {"key": artifact.key, "digest": artifact.digest}:
            return f"its input '{name}' ({artifact.record['label']}) has changed"
    if fingerprints is not None and record["fingerprints"] != fingerprints:
        before = record["fingerprints"]
        names = before.keys() | fingerprints.keys()
        changed = sorted(name for name in names if before.get(name) != fingerprints.get(name))
        return f"what it read has changed since: {', '.join(changed)}"
    return None
