"""Where rows come from: a file that the spec names, the offline mirror, the hub, or the package itself."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn

from reproducer.data import builtin, files, hub
from reproducer.data.files import DataError
from reproducer.errors import nearest

MIRROR = "REPRODUCER_MIRROR"
Origin = Literal["path", "mirror", "hub", "builtin"]


@dataclass(frozen=True)
class Source:
    """What a spec's data name stands for: a data set on the hub (or its mirror), a file, or built-in data.

    `id` is `org/dataset` (with `@revision` where the spec pins one), a path, or `builtin/NAME`; `field` is the
    column that holds the text. `configuration` and `split` mean nothing for a path.
    """

    id: str
    configuration: str | None = None
    split: str = "train"
    field: str = "text"

    def identity(self) -> dict[str, Any]:
        """JSON values that name the source in a recipe key, with nothing read."""
        if is_path(self.id):
            return {"path": str(Path(self.id).expanduser().absolute()), "field": self.field}
        name, revision = hub.revision_of(self.id)
        if name.startswith("builtin/"):
            revision = f"rule {builtin.RULE}"
        return {
            "id": name,
            "configuration": self.configuration,
            "split": self.split,
            "field": self.field,
            "revision": revision,
        }

    def __str__(self) -> str:
        if is_path(self.id):
            return self.id
        return ":".join([self.id, self.configuration or "default", self.split])


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
    id: str
    configuration: str | None
    split: str
    origin: Origin
    location: str
    fingerprint: str
    lines: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> str:
        """`file:line` of a row, or its number where there is no file."""
        return f"{self.location}, row {index}" if self.lines is None else f"{self.location}:{self.lines[index]}"

    def fail(self, index: int, field: str, problem: str) -> NoReturn:
        """Raise the error of one field of one row."""
        raise DataError(f"{self.where(index)}: field '{field}' {problem}")

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


def is_path(name: str) -> bool:
    """Whether a data name is a file of the user's: `.txt`, `.jsonl` or `.jsonl.gz`."""
    return name.endswith((".txt", ".jsonl", ".jsonl.gz"))


def check_path(id: str) -> Path:
    """The file that a path names. DataError where there is none."""
    path = Path(id).expanduser()
    if not path.is_file():
        raise DataError(f"data file {id} does not exist", f"looked for {path.absolute()}")
    return path


def parse_source(name: str, split: str, field: str = "text") -> Source | None:
    """Read `PATH[:field]` or `org/dataset[@revision][:configuration[:split[:field]]]`.

    Args:
        name: the name as the spec has it.
        split: the split of a hub data set where the name gives none.
        field: the field where the name gives none.

    Returns:
        The source, or None where the name has neither shape (it may be the name of a catalogue).

    Raises:
        DataError: the name is a file of another kind.
    """
    if not is_path(name) and Path(name).expanduser().is_file():
        raise DataError(f"data file {name} is of no known kind", "it must end in .txt, .jsonl or .jsonl.gz")
    path, _, own_field = name.rpartition(":") if not is_path(name) else (name, "", "")
    if is_path(path):
        return Source(path, field=own_field or field)
    id, *parts = name.split(":")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", id) or len(parts) > 3:
        return None
    configuration, own_split, own_field = (*parts, "", "", "")[:3]
    return Source(id, configuration or None, own_split or split, own_field or field)


def read_rows(id: str, configuration: str | None = None, split: str = "train") -> Rows:
    """Read a split, looked for in this order: a path; `REPRODUCER_MIRROR`; the hub (`builtin/…`: the package).

    Args:
        id: `org/dataset`, `org/dataset@revision`, the path of a .txt (a row a paragraph, field `text`), .jsonl or
            .jsonl.gz file, or `builtin/NAME`.
        configuration: the data set's configuration; None for its only one (`default`).
        split: the split's name.

    Raises:
        DataError: found nowhere (the message names every place tried and how to provide the data), or empty,
            damaged, not UTF-8, not JSON (the message names the line).
    """
    if _is_builtin_text(id):
        return _builtin_text(id, split)
    origin, path = _find_file(id, configuration, split)
    if path is None:
        return _read_hub(id, configuration, split)
    rows, lines = files.parse(path)
    location = f"{id}.jsonl" if origin == "builtin" else str(path)
    name = id if origin == "path" else hub.revision_of(id)[0]
    return Rows(rows, name, configuration, split, origin, location, files.digest(path), lines)


def fingerprint(id: str, configuration: str | None = None, split: str = "train") -> str:
    """What `read_rows(...).fingerprint` would be, without parsing, and from the hub without downloading."""
    if _is_builtin_text(id):
        return _builtin_text(id, split).fingerprint
    _, path = _find_file(id, configuration, split)
    if path is not None:
        return files.digest(path)
    name, revision = hub.revision_of(id)
    try:
        return _hub_digest(name, configuration, split, hub.commit(name, configuration, revision))
    except Exception as error:
        raise _not_found(id, configuration, split, error) from error


# Files: a path of the user's, the mirror, the package


def _find_file(id: str, configuration: str | None, split: str) -> tuple[Origin, Path | None]:
    if is_path(id):
        return "path", check_path(id)
    if id.startswith("builtin/"):
        name = id.removeprefix("builtin/")
        if name not in builtin.FILES:
            raise DataError(f"no built-in data '{name}'", nearest(name, [*builtin.TEXTS, *builtin.FILES]))
        return "builtin", builtin.FILES[name]
    for part in (configuration or "default", split):
        if not re.fullmatch(r"[\w.-]+", part) or part.startswith("."):
            raise DataError(f"data set {id}: '{part}' is not the plain name of a configuration or split")
    mirror = _mirror()
    if mirror is not None:
        for ending in (".jsonl", ".jsonl.gz"):
            path = mirror / f"{_mirror_stem(id, configuration, split)}{ending}"
            if path.is_file():
                return "mirror", path
    return "hub", None


def _mirror() -> Path | None:
    folder = os.environ.get(MIRROR)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise DataError(f"{MIRROR} names {folder}, which is not a folder")
    return Path(folder)


def _mirror_stem(id: str, configuration: str | None, split: str) -> Path:
    return Path(hub.revision_of(id)[0], configuration or "default", split)


def _is_builtin_text(id: str) -> bool:
    return id.startswith("builtin/") and id.removeprefix("builtin/") in builtin.TEXTS


@lru_cache(maxsize=16)
def _builtin_text(id: str, split: str) -> Rows:
    name = id.removeprefix("builtin/")
    if split not in builtin.ROLES:
        raise DataError(f"{id} has no split '{split}'", nearest(split, builtin.ROLES))
    passages = builtin.passages(name, split)
    if not passages:
        raise DataError(f"{id}: this Python ({builtin.location(name)}) holds too little text for '{split}'")
    digest = hashlib.sha256("\0".join(passages).encode()).hexdigest()
    rows = [{"text": passage} for passage in passages]
    return Rows(rows, id, None, split, "builtin", builtin.location(name), digest)


# The hub


def _read_hub(id: str, configuration: str | None, split: str) -> Rows:
    name, revision = hub.revision_of(id)
    try:
        commit = hub.commit(name, configuration, revision)
        rows = hub.load(name, configuration, split, revision, commit)
    except Exception as error:
        raise _not_found(id, configuration, split, error) from error
    location = f"{name}@{commit} ({configuration or 'default'}/{split})"
    if len(rows) == 0:
        raise DataError(f"{location}: the split is empty")
    return Rows(rows, name, configuration, split, "hub", location, _hub_digest(name, configuration, split, commit))


def _hub_digest(*parts: str | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _not_found(id: str, configuration: str | None, split: str, error: Exception) -> Exception:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return cause  # a full disk is not a missing data set
    name, revision = hub.revision_of(id)
    mirror, stem = _mirror(), _mirror_stem(id, configuration, split)
    if mirror is None:
        mirror_tried = f"{MIRROR} is not set"
    else:
        mirror_tried = f"no file {mirror / stem}.jsonl[.gz]"
        there = sorted(path.name.split(".jsonl")[0] for path in (mirror / stem.parent).glob("*.jsonl*"))
        mirror_tried += f" (splits there: {', '.join(there)})" if there else ""
    reason = next(iter(str(error).strip().splitlines()), "")
    return DataError(
        f"data set {name} (configuration {configuration or 'default'}, split {split}) was not found\n"
        f"  path: '{id}' is no .txt, .jsonl or .jsonl.gz file\n"
        f"  mirror: {mirror_tried}\n"
        f"  hub, revision {revision}: {type(error).__name__}: {reason}",
        f"to provide it: set {MIRROR} to a folder that holds {stem}.jsonl[.gz] (a JSON object a line), "
        "name a .jsonl or .txt file of yours in the spec (as a text or as instructions), "
        "or run once where the hub can be reached",
    )
