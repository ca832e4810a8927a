"""A cache of finished artifacts at a URL that fsspec knows (`--remote`): an object store, or a folder.

    URL/records/<key>.json      the record of a stage's artifact, written last
    URL/files/<key>/<sha256>    what its files hold

So an artifact is there whole or not at all. A record is created and never replaced (in S3 by a PUT with
`If-None-Match: *`): of two machines that made the same artifact, the first one counts. An artifact whose files do not
have their recorded SHA-256 when they are fetched loses its record, and can be stored again.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from reproducer.errors import UserError
from reproducer.queue.artifact import Artifact, Damaged, is_record, misfit
from reproducer.queue.attempt import errors_of
from reproducer.queue.stage import KEY_LENGTH, Stage, topological
from reproducer.queue.store import Store

INSTALL = {"s3": "pip install 'reproducer[s3]'"}  # what brings the driver of a kind of URL
_RECORD = re.compile(rf"/([0-9a-f]{{{KEY_LENGTH}}})\.json")


class Remote:
    """The artifacts at `url`.

    Attributes:
        url: for people to read, without name and password.

    Raises:
        UserError: there is no driver for the URL, or it names no bucket. In all methods: the network, the permissions
            or the remote itself refuse.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._secret_url = url
        self.url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
        try:
            from fsspec.core import url_to_fs

            options = {"auto_mkdir": True} if parts.scheme in ("", "file") else {}
            self._system, root = url_to_fs(url, **options)
        except ImportError as error:
            message = f"the driver for {self.url} is not installed: {error}"
            raise UserError(message, INSTALL.get(parts.scheme)) from None
        except Exception as error:  # drivers' own kinds
            raise self._unusable(error, "name a bucket, such as s3://bucket/prefix, or a folder") from None
        self._root = root.rstrip("/")
        if not self._root:
            raise UserError(f"the remote {self.url} names no bucket", "name one, such as s3://bucket/prefix")

    def keys(self) -> set[str]:
        """The keys of all stages whose artifacts are there."""
        with self._errors():
            self._system.invalidate_cache()  # a listing kept from before lacks what others have stored since
            names = self._system.find(f"{self._root}/records")
        return {match[1] for name in names if (match := _RECORD.search(name))}

    def fetch(
        self, stages: Iterable[Stage], store: Store, device: str | None, say: Callable[[str], None]
    ) -> list[Artifact]:
        """Bring into the store what it lacks, or has damaged, of `stages`.

        Args:
            device: where given, today's fingerprints for it are compared, as a run would.
            say: gets a line for each artifact that is damaged at the remote.
        Returns:
            What was fetched.
        """
        ordered, keys = topological(stages), self.keys()
        if any(stage.key in keys and store.read(stage) is None for stage in ordered):
            store.prepare()
        artifacts: dict[str, Artifact] = {}
        fetched = []
        for stage in ordered:
            if not all(needed.key in artifacts for needed in stage.inputs.values()):
                continue
            inputs = {name: artifacts[needed.key] for name, needed in stage.inputs.items()}
            artifact = store.inspect(stage, inputs)
            if not isinstance(artifact, Artifact) and stage.key in keys:
                artifact = self._fetch(stage, inputs, store, device, say)
                fetched += [artifact] if artifact else []
            if isinstance(artifact, Artifact):
                artifacts[stage.key] = artifact
        return fetched

    def _fetch(
        self,
        stage: Stage,
        inputs: Mapping[str, Artifact],
        store: Store,
        device: str | None,
        say: Callable[[str], None],
    ) -> Artifact | None:
        try:
            today = None if device is None else stage.fingerprints(device)
        except UserError:  # said when the stage is to run
            return None
        try:
            record = self._record(stage)
            if misfit(record, inputs, today) is not None:
                return None
            with errors_of(store, stage), store.lock(stage) as lock:
                # If another run is at the stage, this one waits for it.
                return store.receive(stage, record, self._download) if lock.acquire() else None
        except Damaged as why:
            say(f"{stage.label}: what the remote has is damaged and is removed there: {why}")
            with suppress(UserError), self._errors():  # it may only be read
                self._system.rm_file(self._record_path(stage.key))
            return None

    def _record(self, stage: Stage) -> dict[str, Any]:
        with self._errors():
            content = self._system.cat_file(self._record_path(stage.key))
        with suppress(ValueError):
            record = json.loads(content)
            if isinstance(record, dict) and is_record(record, stage):
                return record
        raise Damaged("its record is garbled")

    def _download(self, key: str, name: str, digest: str, path: Path) -> None:
        with self._errors():
            try:
                self._system.get_file(self._file_path(key, digest), str(path))
            except FileNotFoundError:
                raise Damaged(f"{name} is missing") from None

    def store(self, artifact: Artifact) -> None:
        """Upload an artifact, unless one of its key is there."""
        record = self._record_path(artifact.key)
        with self._errors():
            self._system.invalidate_cache()
            if self._system.exists(record):
                return
            for name, digest in artifact.record["files"].items():
                self._system.put_file(str(artifact.directory / name), self._file_path(artifact.key, digest))
            try:
                self._system.pipe_file(record, json.dumps(artifact.record, indent=1).encode(), mode="create")
            except Exception:
                # Drivers refuse with errors of their own, and may try again what has succeeded.
                self._system.invalidate_cache()
                if not self._system.exists(record):
                    raise

    def _record_path(self, key: str) -> str:
        return f"{self._root}/records/{key}.json"

    def _file_path(self, key: str, digest: str) -> str:
        return f"{self._root}/files/{key}/{digest}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever the driver raises, as a UserError; but a full disk of this machine as it is."""
        try:
            yield
        except (UserError, Damaged):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise self._unusable(error) from error

    def _unusable(self, error: Exception, hint: str | None = None) -> UserError:
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0].replace(self._secret_url, self.url)
        hint = hint or "look at the network, the credentials and the name; what was finished is kept"
        return UserError(f"the remote {self.url} cannot be used: {reason}", hint)
