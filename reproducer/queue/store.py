"""The artifact store: one folder a finished stage, found by the key of its recipe.

    root/<kind>/<key>/      the files of an artifact and record.json
    root/work/<key>/        a stage while it runs; work/<key>.json: what a resumable one has spent and recorded;
                            work/<key>.fetched/: an artifact on its way from the remote
    root/corrupt/<key>-N/   artifacts that could not be trusted any more, for a person to look at
    root/failed/<key>.json  why a stage failed; gone once it succeeds
    root/locks/<key>.*      the lock of a stage, and who holds it, how far that one is and what it has said
    root/logs/<key>.log     all that the stage has said, printed and logged, attempt after attempt
    root/verified/          hashes of large files
    root/shared/<key>-…/    what stages keep for each other, a cache; it goes with the artifact of that key

An artifact appears by one rename, so it is there whole or not at all. Reading needs no lock; everything that
changes what belongs to a stage is done by the process that holds the stage's lock.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import statistics
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from reproducer.errors import UserError
from reproducer.files import read_json, tree_bytes, write_json
from reproducer.queue.artifact import Artifact, Damaged, Failure, Work, files_digest, is_record, misfit
from reproducer.queue.hashes import Hashes
from reproducer.queue.locks import Holder, StageLock
from reproducer.queue.stage import KEY_LENGTH, RESERVED, Stage

RECORD = "record.json"
_KEY = re.compile(rf"\.?([0-9a-f]{{{KEY_LENGTH}}})(?![0-9a-f])")  # a leading dot: a partly written file
NAME_MAX = 255  # bytes of a file name
_LONGEST = "x" * 250  # no path below work/<key>/ is longer


class Store:
    """The store in the folder `root`. Nothing is written before `prepare` or a run.

    Raises:
        UserError: `root` cannot be the path of a folder.
    """

    def __init__(self, root: str | Path) -> None:
        try:
            self.root = Path(root).expanduser().absolute()  # a stage may change the working directory
            if any(len(os.fsencode(part)) > NAME_MAX for part in self.root.parts):
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))  # also where nothing is there yet
            if self.root.exists() and not self.root.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "it is a file")
            (self.root / "work" / _LONGEST).lstat()
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: of a home folder that there is not
            why = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
            hint = "name a folder, or one to be made"
            raise UserError(f"the store {_shown(str(root))} cannot be a folder: {why}", hint) from error

    def prepare(self) -> None:
        """Make the folders, and remove what killed processes left half-written. UserError where that cannot be."""
        try:
            for name in sorted(RESERVED):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root / "work"):
                pass
            self._sweep()
        except OSError as error:
            hint = "choose another folder for the store, or make this one writable"
            raise UserError(f"the store {self.root} cannot be written ({error.strerror})", hint=hint) from error

    def _sweep(self) -> None:
        """Remove partly written files and notes, and work that nobody can go on with, of stages not held."""
        left: dict[str, list[Path]] = {}
        for path in (*self.root.glob("*/.*"), *self.root.glob("locks/*"), *self.root.glob("work/*")):
            if (match := _KEY.match(path.name)) and path.suffix != ".lock":
                left.setdefault(match[1], []).append(path)
        for key, paths in left.items():
            with StageLock(self.root / "locks", key) as lock:
                if lock.acquire():
                    for path in paths:
                        if path.parent.name != "work" or path.name.startswith("."):
                            path.unlink(missing_ok=True)
                        elif path.is_dir() and not (path / RECORD).exists() and not _notes(path).exists():
                            shutil.rmtree(path)

    def lock(self, stage: Stage) -> StageLock:
        """The stage's lock, not yet taken."""
        return StageLock(self.root / "locks", stage.key)

    def holder(self, stage: Stage) -> Holder | None:
        """Who is at the stage, in whatever process; None: nobody."""
        lock = self.lock(stage)
        holder = lock.holder()  # first: who asks for a lock makes its file
        try:
            return None if holder is None or lock.is_free() else holder
        except OSError:  # a store that may only be read
            return holder

    def log_path(self, stage: Stage) -> Path:
        """Where all attempts at the stage have written down what they said, printed and logged."""
        return self.root / "logs" / f"{stage.key}.log"

    # reading

    def inspect(
        self, stage: Stage, inputs: Mapping[str, Artifact], fingerprints: Mapping[str, str] | None = None
    ) -> Artifact | str | None:
        """The stage's artifact, verified; or why the one that is there cannot be used; or None: there is none.

        Args:
            inputs: the artifacts of the stage's inputs; the record must name the same digests.
            fingerprints: today's digests of the outside sources; None: not compared.
        """
        folder = self._folder(stage)
        if not folder.exists():
            return None
        artifact = self.read(stage)
        if artifact is None:
            return f"{RECORD} is missing or damaged"
        if why := misfit(artifact.record, inputs, fingerprints):
            return why
        hashes = self._hashes(stage)
        for name, digest in artifact.record["files"].items():
            try:
                if hashes.digest(folder / name, name) != digest:
                    return f"{name} was changed or damaged: it no longer has the recorded SHA-256"
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
        hashes.save()
        return artifact

    def read(self, stage: Stage) -> Artifact | None:
        """The stage's artifact as its record says, not verified; None: there is none with a whole record."""
        record = read_json(self._folder(stage) / RECORD)
        return Artifact(self._folder(stage), record) if record and is_record(record, stage) else None

    def failure(self, stage: Stage) -> Failure | None:
        """Why the stage failed the last time it was tried, unless it has succeeded since."""
        try:
            return Failure(**(read_json(self.failure_path(stage)) or {}))
        except TypeError:
            return None

    def typical_seconds(self, kinds: Iterable[str], newest: int = 50) -> dict[str, float]:
        """Per kind the median of what its newest artifacts took; a kind without any is left out."""
        typical = {}
        for kind in set(kinds):
            paths = sorted(self.root.glob(f"{kind}/*/{RECORD}"), key=_mtime, reverse=True)[:newest]
            seconds = [(read_json(path) or {}).get("seconds") for path in paths]
            if known := [value for value in seconds if isinstance(value, int | float)]:
                typical[kind] = statistics.median(known)
        return typical

    # writing, under the stage's lock

    def begin(
        self, stage: Stage, inputs: Mapping[str, Artifact], fingerprints: Mapping[str, str], resume: bool
    ) -> Work:
        """The folder for the stage to work in: empty, or with `resume` as an attempt on the same inputs left it."""
        directory, notes = self._work(stage)
        basis = {
            "inputs": {name: artifact.digest for name, artifact in inputs.items()},
            "fingerprints": dict(fingerprints),
        }
        known = read_json(notes)
        if resume and directory.is_dir() and known and known.get("basis") == basis:
            return Work(directory, notes, basis, dict(known["spent"]), dict(known["facts"]), resumed=True)
        self._abandon(stage)
        work = Work(directory, notes if resume else None, basis)
        work.save({})
        directory.mkdir()
        return work

    def _abandon(self, stage: Stage) -> None:
        """Throw away what an attempt left."""
        directory, notes = self._work(stage)
        if directory.exists():
            shutil.rmtree(directory)
        notes.unlink(missing_ok=True)

    def leave(self, stage: Stage) -> None:
        """Throw away what a failed attempt left, unless only the last step of its commit is missing."""
        directory, _ = self._work(stage)
        if not (directory / RECORD).exists():
            shutil.rmtree(directory, ignore_errors=True)

    def commit(
        self, stage: Stage, inputs: Mapping[str, Artifact], fingerprints: Mapping[str, str], details: Mapping[str, Any]
    ) -> Artifact:
        """Make the stage's work folder its artifact. `details` are the further fields of the record.

        Raises:
            ValueError: the stage left a link or a file called record.json.
            OSError: and there is no artifact.
        """
        directory, _ = self._work(stage)
        if (directory / RECORD).exists():
            raise ValueError(f"the stage wrote {RECORD}, which is the store's own name")
        hashes = self._hashes(stage)
        files = {}
        for path in sorted(directory.rglob("*")):
            name = path.relative_to(directory).as_posix()
            if path.is_symlink():
                raise ValueError(f"'{name}' is a link; an artifact holds plain files only")
            if path.is_file():
                files[name] = hashes.digest(path, name)
        record = {
            "key": stage.key,
            "kind": stage.kind,
            "version": stage.version,
            "label": stage.label,
            "params": stage.params,
            "inputs": {name: {"key": artifact.key, "digest": artifact.digest} for name, artifact in inputs.items()},
            "files": files,
            "digest": files_digest(files),
            "fingerprints": dict(fingerprints),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **details,
        }
        hashes.save()
        return self._complete(stage, record)

    def receive(
        self, stage: Stage, record: Mapping[str, Any], download: Callable[[str, str, str, Path], None]
    ) -> Artifact:
        """Make what a remote has under that record the stage's artifact. One that was there is moved into corrupt/.

        Args:
            download: makes the file of a key, a name and a SHA-256 at a path.
        Raises:
            Damaged: it is not what was recorded; nothing has changed.
            OSError: likewise.
        """
        directory, _ = self._work(stage)
        fetched = directory.with_name(f"{stage.key}.fetched")  # what an attempt has left may still be needed
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir()
        hashes = self._hashes(stage)
        try:
            for name, digest in record["files"].items():
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or name == RECORD:
                    raise Damaged(f"{name!r} cannot be a file of an artifact")
                path = fetched / name
                path.parent.mkdir(parents=True, exist_ok=True)
                download(stage.key, name, digest, path)
                if hashes.digest(path, name) != digest:
                    raise Damaged(f"{name} does not have the recorded SHA-256")
        except BaseException:
            shutil.rmtree(fetched, ignore_errors=True)
            raise
        hashes.save()
        self._abandon(stage)
        fetched.rename(directory)
        if self._folder(stage).exists():
            self.discard(stage)
        return self._complete(stage, dict(record))

    def _complete(self, stage: Stage, record: dict[str, Any]) -> Artifact:
        # Not in the folder itself: a kill while writing must not leave a partial file among a resumable stage's own.
        directory, _ = self._work(stage)
        outside = directory.with_name(f"{stage.key}.record")
        write_json(outside, record, durable=True)
        outside.replace(directory / RECORD)
        return Artifact(self._publish(stage), record)

    def recover(self, stage: Stage) -> None:
        """Finish a commit that a kill interrupted between the record and the rename."""
        if (self._work(stage)[0] / RECORD).is_file():
            self._publish(stage)

    def discard(self, stage: Stage) -> Path:
        """Move the stage's artifact into corrupt/. Returns where it is now."""
        return self._set_aside(self._folder(stage))

    def fail(self, stage: Stage, failure: Failure) -> None:
        """Write down why the stage failed."""
        write_json(self.failure_path(stage), vars(failure))

    def clean(self, needed: Collection[str]) -> dict[str, int]:
        """Remove what no stage in `needed` (keys) made, all of corrupt/ included.

        A stage that is locked, by a run that is under way, is left alone, and so are the artifacts it reads.

        Returns:
            What was removed: path relative to the store -> bytes; logs, which go with it, left out.
        """
        removed: dict[str, int] = {}
        keep = set(needed)
        locks = self.root / "locks"
        if not locks.is_dir():
            return removed  # not a store (yet): nothing in it is ours to remove
        for path in locks.glob("*.lock"):
            lock = StageLock(locks, path.stem)
            if lock.acquire():
                lock.release()
            elif holder := lock.holder():
                keep.update(holder.inputs)
        of_key: dict[str, list[Path]] = {}
        for path in sorted(self.root.glob("*/*")):
            if match := _KEY.match(path.name):
                of_key.setdefault(match[1], []).append(path)
        for key, paths in of_key.items():
            with StageLock(locks, key) as lock:
                if not lock.acquire():
                    continue
                for path in paths:
                    if path.parent != locks and (key not in keep or path.parent.name == "corrupt"):
                        size = self._remove(path)
                        if path.parent.name != "logs":
                            removed[path.relative_to(self.root).as_posix()] = size
                if key not in keep:
                    lock.remove()
        return removed

    # paths

    def _folder(self, stage: Stage) -> Path:
        return self.root / stage.kind / stage.key

    def _work(self, stage: Stage) -> tuple[Path, Path]:
        directory = self.root / "work" / stage.key
        return directory, _notes(directory)

    def failure_path(self, stage: Stage) -> Path:
        """Where the stage's failure is written down."""
        return self.root / "failed" / f"{stage.key}.json"

    def _hashes(self, stage: Stage) -> Hashes:
        return Hashes(self.root / "verified" / f"{stage.key}.json")

    def _publish(self, stage: Stage) -> Path:
        folder = self._folder(stage)
        folder.parent.mkdir(exist_ok=True)
        directory, notes = self._work(stage)
        directory.rename(folder)
        notes.unlink(missing_ok=True)
        self.failure_path(stage).unlink(missing_ok=True)
        return folder

    def _remove(self, path: Path) -> int:
        size = tree_bytes(path)
        # Moved first: what is left if this is interrupted must not look like a damaged artifact.
        moved = path if path.parent.name in RESERVED else self._set_aside(path)
        if moved.is_dir():
            shutil.rmtree(moved)
        else:
            moved.unlink()
        return size

    def _set_aside(self, path: Path) -> Path:
        number = 1
        while (target := self.root / "corrupt" / f"{path.name}-{number}").exists():
            number += 1
        return path.rename(target)


def _notes(work: Path) -> Path:
    return work.with_name(f"{work.name}.json")


def _shown(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
