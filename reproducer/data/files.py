"""Reading the data files that people bring: JSON lines, plain or gzipped, and plain text."""

import gzip
import hashlib
import json
import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from reproducer.errors import UserError

POINTER = b"version https://git-lfs"
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # json.loads takes one without its other half as well


class DataError(UserError):
    """Data that cannot be found, read or used; the message says where and what would be right."""


def digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes, computed once while the file is unchanged."""
    return _digest(path, *_state(path))


def parse(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Rows and their line numbers: JSON objects of .jsonl[.gz], or paragraphs of .txt as `{"text": …}`.

    A paragraph has the blank lines behind it. A byte-order mark is no text.

    Parsed once while the file is unchanged: the rows are shared by all readers.

    Raises:
        DataError: empty, damaged, not UTF-8 or not JSON, with the line.
    """
    return _parse(path, *_state(path))


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=16)
def _parse(path: Path, size: int, mtime_ns: int) -> tuple[list[dict[str, Any]], list[int]]:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error})") from error
    if raw.startswith(POINTER):
        raise DataError(f"{path} is a git-lfs pointer, not the data", "fetch it: `git lfs pull` in that repository")
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 (byte {raw[error.start]:#04x})") from error
    rows, lines = _paragraphs(content) if path.suffix == ".txt" else _json_lines(content, path)
    if not rows:
        raise DataError(f"{path}: the file is empty")
    return rows, lines


def _paragraphs(content: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Paragraphs, each with the blank lines behind it, so that all of them together are the file as it is."""
    rows: list[list[str]] = []
    lines: list[int] = []
    blank = True
    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", content), 1):
        begins = bool(line.strip()) and blank and any(part.strip() for row in rows[-1:] for part in row)
        if begins or not rows:
            rows.append([])
            lines.append(number)
        rows[-1].append(line)
        blank = not line.strip()
    if not content.strip():
        return [], []
    return [{"text": "".join(row)} for row in rows], lines


def _json_lines(content: str, path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    # Not splitlines(): JSON strings may hold U+2028 and its like as they are.
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if HALF_PAIR.search(line):
                json.dumps(row, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON: {error.msg} (column {error.colno})") from error
        except RecursionError:
            raise DataError(f"{path}:{number}: its lists and objects are nested too deeply to be read") from None
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise DataError(f"{path}:{number}: {half} is half of a surrogate pair and no character") from None
        except ValueError as error:  # an integer of more digits than Python reads
            raise DataError(f"{path}:{number}: a number that cannot be read: {error}") from error
        if not isinstance(row, dict):
            kind = "null" if row is None else type(row).__name__
            raise DataError(f"{path}:{number}: a row must be a JSON object, this is {kind}")
        rows.append(row)
        lines.append(number)
    return rows, lines
