"""Where rows come from: a file that the spec names, the offline mirror, the hub, or the package itself."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn

from reproducer.data import builtin, files, hub
from reproducer.data.files import DataError
from reproducer.errors import UserError, nearest

MIRROR = "REPRODUCER_MIRROR"
ENDINGS = (".txt", ".jsonl", ".jsonl.gz")
Origin = Literal["path", "mirror", "hub", "builtin"]


@dataclass(frozen=True)
class Rows:
    """The rows of one split and where they were found. They are shared by all readers: do not change them.

    Attributes:
        rows: a list of dicts, or a `datasets.Dataset` (memory-mapped) for data from the hub.
        origin: which kind of place the rows were found in.
        location: the file, the hub revision, or the Python version of built-in text; for messages and reports.
        fingerprint: sha256 (hex) of the raw bytes read; from the hub, of the data set's id, configuration, split
            and commit; of built-in text, of the text itself.
        lines: line number in the file of each row; None for data that has no lines.
    """

    rows: Sequence[Mapping[str, Any]]
    origin: Origin
    location: str
    fingerprint: str
    lines: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def between(self, low: int, high: int) -> "Rows":
        """Those from one to the other per cent."""
        start, stop = (len(self) * share // 100 for share in (low, high))
        select = getattr(self.rows, "select", None)  # of a data set of the hub
        rows = self.rows[start:stop] if select is None else select(range(start, stop))
        return replace(self, rows=rows, lines=None if self.lines is None else self.lines[start:stop])

    def fail(self, index: int, field: str, problem: str) -> NoReturn:
        """Raise the error of one field of one row."""
        place = f"{self.location}, row {index}" if self.lines is None else f"{self.location}:{self.lines[index]}"
        raise DataError(f"{place}: field '{field}' {problem}")

    def strings(self, field: str) -> Sequence[str]:
        """One column of text. DataError names the line where the field is missing or is not a string."""
        columns = getattr(self.rows, "column_names", None)
        if columns is not None and field in columns and self.rows.features[field].dtype == "string":  # type: ignore[attr-defined]
            return self.rows[field]  # type: ignore[call-overload, no-any-return]  # datasets' lazy column
        for index, row in enumerate(self.rows):
            if field not in row:
                self.fail(index, field, f"is missing; there are: {', '.join(row)}")
            if not isinstance(row[field], str):
                self.fail(index, field, f"is not text: {row[field]!r}")
        return [row[field] for row in self.rows]


@dataclass(frozen=True)
class Source:
    """What a spec's data name stands for: a data set on the hub (or its mirror), a file, or built-in data.

    `id` is `org/dataset` (with `@revision` where the spec pins one), the path of a .txt (a row a paragraph, field
    `text`), .jsonl or .jsonl.gz file, or `builtin/NAME`; `field` is the column that holds the text. `configuration`
    (None: the data set's only one, `default`) and `split` mean nothing for a path.

    Of a text the `first` so many rows are read; None: all. What stands between two of them is `join`; None: two line
    ends, and nothing between the paragraphs of a .txt, which is read as it is. `begin`: each window of it starts with
    the token that begins a text. `packed`: rows that are shorter than a calibration sample make one together. `part`:
    the rows from one to the other per cent of them, so that one file can serve for several things.
    """

    id: str
    configuration: str | None = None
    split: str = "train"
    field: str = "text"
    first: int | None = None
    join: str | None = None
    begin: bool = False
    packed: bool = False
    part: tuple[int, int] | None = None

    def identity(self) -> dict[str, Any]:
        """JSON values that name the source in a stage's key, with nothing read."""
        rows = list(self.part) if self.part else None
        how = {"join": self.join, "begin": self.begin or None, "packed": self.packed or None, "first": self.first}
        options: dict[str, Any] = {name: value for name, value in (how | {"rows": rows}).items() if value is not None}
        if is_path(self.id):
            as_is = {"as_is": True} if self.id.endswith(".txt") else {}
            return {"path": str(_expanded(self.id).absolute()), "field": self.field, **as_is, **options}
        name, revision = hub.revision_of(self.id)
        if name.startswith("builtin/"):
            revision = f"rule {builtin.RULE}"
        return {
            "id": name,
            "configuration": self.configuration,
            "split": self.split,
            "field": self.field,
            "revision": revision,
            **options,
        }

    def read(self) -> Rows:
        """The rows, looked for in this order: a path; `REPRODUCER_MIRROR`; the hub (`builtin/…`: the package).

        Raises:
            DataError: found nowhere (the message names every place tried and how to provide the data), or empty,
                damaged, not UTF-8, not JSON (the message names the line).
        """
        if self._is_builtin_text:
            return _builtin_text(self.id, self.split)
        origin, path = self._file()
        if path is None:
            return _read_hub(self)
        rows, lines = files.parse(path)
        location = f"{self.id}.jsonl" if origin == "builtin" else str(path)
        return Rows(rows, origin, location, files.digest(path), lines)

    def fingerprint(self) -> str:
        """What `read().fingerprint` would be, without parsing, and from the hub without downloading."""
        if self._is_builtin_text:
            return _builtin_text(self.id, self.split).fingerprint
        _, path = self._file()
        return _hub_commit(self)[1] if path is None else files.digest(path)

    @property
    def _is_builtin_text(self) -> bool:
        return self.id.startswith("builtin/") and self.id.removeprefix("builtin/") in builtin.TEXTS

    def _file(self) -> tuple[Origin, Path | None]:
        """The file of the user's, of the package or of the mirror that holds the rows, if one does."""
        if is_path(self.id):
            return "path", _existing(self.id)
        if self.id.startswith("builtin/"):
            name = self.id.removeprefix("builtin/")
            if name not in builtin.FILES:
                raise DataError(f"no built-in data '{name}'", nearest(name, [*builtin.TEXTS, *builtin.FILES]))
            return "builtin", builtin.FILES[name]
        for part in (self.configuration or "default", self.split):
            if not re.fullmatch(r"[\w.-]+", part) or part.startswith("."):
                raise DataError(f"data set {self.id}: '{part}' is not the plain name of a configuration or split")
        mirror = _mirror()
        if mirror is not None:
            for ending in (".jsonl", ".jsonl.gz"):
                path = mirror / f"{self._mirror_stem}{ending}"
                if path.is_file():
                    return "mirror", path
        return "hub", None

    @property
    def _mirror_stem(self) -> Path:
        return Path(hub.revision_of(self.id)[0], self.configuration or "default", self.split)


def absolute(name: str) -> str:
    """The data name with the path of a file made absolute, so that it means the same everywhere; others as they are."""
    plain, mark, how = name.partition("?")
    source = parse_source(plain, "")
    if source is None or not is_path(source.id):
        return name
    return f"{_expanded(source.id).absolute()}{plain.removeprefix(source.id)}{mark}{how}"


def rows_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of a source's identity tells which rows it has, however they are read."""
    return {name: value for name, value in identity.items() if name not in ("join", "begin", "packed", "as_is")}


def is_path(name: str) -> bool:
    """Whether a data name is a file of the user's: `.txt`, `.jsonl` or `.jsonl.gz`."""
    return name.endswith(ENDINGS)


def find_source(
    noun: str,
    name: str,
    known: Mapping[str, Source],
    split: str,
    field: str = "text",
    *,
    names: Iterable[str] | None = None,
    endings: tuple[str, ...] = ENDINGS,
) -> Source:
    """The source that a spec's name stands for, with nothing read.

    Args:
        noun: what is looked for, such as `text`, for messages.
        name: a name of `known`, `org/dataset[@revision][:configuration[:split[:field]]]`, or `PATH[:field]`.
        split, field: of a hub data set or file whose name gives none.
        names: to suggest in place of an unknown one; those of `known` by default.
        endings: of the files that will do.

    Raises:
        UserError: an unknown name (with the nearest right one), a missing file, or a file of another kind.
    """
    if name in known:
        return known[name]
    source = parse_source(name, split, field)
    if source is None or (is_path(source.id) and not source.id.endswith(endings)):
        more = "[:field]" if field == "text" else ""
        forms = f"org/dataset[:configuration[:split{more}]], or the path of a {', '.join(endings)} file"
        hints = [nearest(name, list(names or known)), f"give {forms}"]
        raise UserError(f"unknown {noun} '{name}'", " or ".join(filter(None, hints)))
    if is_path(source.id):
        _existing(source.id)
    return source


def parse_source(name: str, split: str, field: str = "text") -> Source | None:
    """The source that a name spells out, or None where it has no such shape; arguments as `find_source`.

    Raises:
        DataError: the name is a file of another kind.
    """
    if not is_path(name) and _is_file(_expanded(name)):
        raise DataError(f"data file {name} is of no known kind", f"it must end in {', '.join(ENDINGS)}")
    path, _, own_field = name.rpartition(":") if not is_path(name) else (name, "", "")
    if is_path(path):
        return Source(path, field=own_field or field)
    id, *parts = name.split(":")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", id) or len(parts) > 3:
        return None
    configuration, own_split, own_field = (*parts, "", "", "")[:3]
    return Source(id, configuration or None, own_split or split, own_field or field)


# Files: a path of the user's, the mirror


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise DataError(f"{name}: {str(error).rstrip('.').lower()}", "is the user's name right?") from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is longer than the file system allows
        return False


def _existing(id: str) -> Path:
    path = _expanded(id)
    if not _is_file(path):
        raise DataError(f"data file {id} does not exist", f"looked for {path.absolute()}")
    return path


def _mirror() -> Path | None:
    folder = os.environ.get(MIRROR)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise DataError(f"{MIRROR} names {folder}, which is not a folder")
    return Path(folder)


@lru_cache(maxsize=16)
def _builtin_text(id: str, split: str) -> Rows:
    name = id.removeprefix("builtin/")
    if split not in builtin.ROLES:
        raise DataError(f"{id} has no split '{split}'", nearest(split, builtin.ROLES))
    passages = builtin.passages(name, split)
    if not passages:
        raise DataError(f"{id}: this Python ({builtin.location(name)}) holds too little text for '{split}'")
    digest = hashlib.sha256("\0".join(passages).encode()).hexdigest()
    return Rows([{"text": passage} for passage in passages], "builtin", builtin.location(name), digest)


# The hub


def _read_hub(source: Source) -> Rows:
    commit, digest = _hub_commit(source)
    name, revision = hub.revision_of(source.id)
    try:
        rows = hub.load(name, source.configuration, source.split, revision, commit)
    except Exception as error:
        raise _not_found(source, error) from error
    location = f"{name}@{commit} ({source.configuration or 'default'}/{source.split})"
    if len(rows) == 0:
        raise DataError(f"{location}: the split is empty")
    return Rows(rows, "hub", location, digest)


def _hub_commit(source: Source) -> tuple[str, str]:
    """The commit that the source is at now, and the fingerprint of its rows."""
    name, revision = hub.revision_of(source.id)
    try:
        commit = hub.commit(name, source.configuration, revision)
    except Exception as error:
        raise _not_found(source, error) from error
    return commit, hashlib.sha256(json.dumps([name, source.configuration, source.split, commit]).encode()).hexdigest()


def _not_found(source: Source, error: Exception) -> Exception:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return cause  # a full disk is not a missing data set
    name, revision = hub.revision_of(source.id)
    mirror, stem = _mirror(), source._mirror_stem
    if mirror is None:
        mirror_tried = f"{MIRROR} is not set"
    else:
        mirror_tried = f"no file {mirror / stem}.jsonl[.gz]"
        there = sorted(path.name.split(".jsonl")[0] for path in (mirror / stem.parent).glob("*.jsonl*"))
        mirror_tried += f" (splits there: {', '.join(there)})" if there else ""
    reason = next(iter(str(error).strip().splitlines()), "")
    return DataError(
        f"data set {name} (configuration {source.configuration or 'default'}, split {source.split}) was not found\n"
        f"  path: '{source.id}' is no .txt, .jsonl or .jsonl.gz file\n"
        f"  mirror: {mirror_tried}\n"
        f"  hub, revision {revision}: {type(error).__name__}: {reason}",
        f"to provide it: set {MIRROR} to a folder that holds {stem}.jsonl[.gz] (a JSON object a line), "
        "name a .jsonl or .txt file of yours in the spec, or run once where the hub can be reached",
    )
