"""Objects at a URL that fsspec knows, in S3 and its kin.

What is asked of such a store: an object appears whole or not at all; who lists or reads after a write has ended sees
it; and of those who `create` one object at the same time, one succeeds (in S3 a PUT with `If-None-Match: *`).
"""

from __future__ import annotations

import errno
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from reproducer.errors import UserError

AGAIN_SECONDS = 2.0  # before what failed is tried a second time; drivers try again themselves too
INSTALL = {"s3": "pip install 'reproducer[s3]'"}  # what brings the driver of a kind of URL
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Objects:
    """The objects below `url`. Their names are paths relative to it.

    Methods raise a UserError for what the network, the permissions or the store itself refuse, after a second try.

    Attributes:
        url: for people to read, without name and password.

    Raises:
        UserError: there is no driver for the URL, or it names no object store.
    """

    def __init__(self, url: str) -> None:
        self._given, self.url = url, _shown(url)
        try:
            from fsspec.core import url_to_fs
            from fsspec.implementations.local import LocalFileSystem

            # a list that was kept from before does not show what others have written since
            self._system, root = url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            hint = INSTALL.get(urlsplit(url).scheme)
            raise UserError(f"the driver for {self.url} is not installed: {error}", hint) from None
        except Exception as error:  # drivers' own kinds
            raise self._wrong(error, "name a bucket, such as s3://bucket/prefix") from None
        if isinstance(self._system, LocalFileSystem):
            hint = "machines that share a folder take it as their --store"
            raise UserError(f"the remote {self.url} is a folder and no object store", hint)
        self._root = root.rstrip("/")
        if not self._root:
            raise UserError(f"the remote {self.url} names no bucket", "name one, such as s3://bucket/prefix")

    def check(self) -> None:
        """UserError unless objects can be written, and `create` makes one only if it is not there."""
        name = f"check/{uuid.uuid4().hex}"
        made = self.create(name, b"first"), self.create(name, b"second"), self.read(name)
        self.remove(name)
        if made != (True, False, b"first"):
            hint = "take S3, Google Cloud Storage, or a server that honours `If-None-Match: *`"
            raise UserError(f"the remote {self.url} lets two writers make the same object", hint)

    def names(self, folder: str) -> list[str]:
        """The names of all objects below `folder`, relative to it."""
        path = f"{self._root}/{folder}/"
        try:
            found = self._call(self._system.find, path.rstrip("/"))
        except FileNotFoundError as error:
            raise self._wrong(error) from None
        return [name.removeprefix(path) for name in found]

    def read(self, name: str) -> bytes | None:
        """What an object holds; None: it is not there."""
        return self.read_all([name]).get(name)

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """What objects hold, by name; those that are not there are left out."""
        found = {}
        for name, content in self._call(self._read, list(names)):
            if not isinstance(content, FileNotFoundError):
                found[name] = content
        return found

    def _read(self, names: list[str]) -> list[tuple[str, Any]]:
        paths = [self._path(name) for name in names]
        contents = self._system.cat(paths, on_error="return") if paths else {}
        for content in contents.values():
            if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                raise content
        return [(name, contents[path]) for name, path in zip(names, paths, strict=True)]

    def create(self, name: str, content: bytes) -> bool:
        """Make an object that is not there; false: it is, or somebody else has made it just now.

        An answer may be lost on its way, and drivers tell a refusal in words of their own. So what is there afterwards
        decides: `content` must tell its writer from others.
        """
        for last in (False, True):
            try:
                self._system.pipe_file(self._path(name), content, mode="create")
                return True
            except Exception as error:
                there = self.read(name)
                if there is not None or isinstance(error, FileExistsError):
                    return there == content
                if last or isinstance(error, PermissionError | FileNotFoundError):
                    raise self._wrong(error) from error
                time.sleep(AGAIN_SECONDS)
        raise AssertionError("the last try returns or raises")

    def write(self, name: str, content: bytes) -> None:
        """Make an object, or replace it."""
        self._store(self._system.pipe_file, self._path(name), content)

    def upload(self, path: Path, name: str) -> None:
        """Make an object of a file, or replace it."""
        self._store(self._system.put_file, str(path), self._path(name))

    def download(self, name: str, path: Path) -> bool:
        """Make a file of an object; false: it is not there. OSError where the disk is full."""
        try:
            self._call(self._system.get_file, self._path(name), str(path))
        except FileNotFoundError:
            return False
        return True

    def remove(self, *names: str) -> None:
        """Remove objects, if they are there."""
        for name in names:
            with suppress(FileNotFoundError):
                self._call(self._system.rm_file, self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _store(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._call(function, *arguments)
        except FileNotFoundError as error:  # the bucket
            raise self._wrong(error) from error

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        for last in (False, True):
            try:
                return function(*arguments)
            except FileNotFoundError:
                raise
            except Exception as error:  # drivers' own kinds, and those of what they talk through
                if isinstance(error, OSError) and error.errno in _FULL:
                    raise
                if last or isinstance(error, PermissionError):
                    raise self._wrong(error) from error
                time.sleep(AGAIN_SECONDS)

    def _wrong(self, error: Exception, hint: str | None = None) -> UserError:
        told = (str(error).strip() or type(error).__name__).partition("\n")[0].replace(self._given, self.url)
        hint = hint or "look at the network, the credentials and the name; what was finished is kept"
        return UserError(f"the remote {self.url} cannot be used: {told}", hint)


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
