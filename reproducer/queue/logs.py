"""What a stage prints, warns of and logs, in a file of the store and not in between what the run shows."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """In the `with` block what this process writes to `sys.stdout`, `sys.stderr` and loggers is added to a file."""
    handler = logging.StreamHandler(_OUT)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    before = sys.stdout, sys.stderr
    with path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as stream:
        sys.stdout, sys.stderr, _OUT.stream = _OUT, _OUT, stream  # type: ignore[assignment]
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
            (sys.stdout, sys.stderr), _OUT.stream = before, None


class _Out(io.TextIOBase):
    """One for the whole process: libraries keep the stream that they find, and use it in later stages too."""

    stream: TextIO | None = None

    def _now(self) -> TextIO:
        return self.stream or sys.__stderr__ or sys.stderr

    def write(self, text: str) -> int:
        return self._now().write(text)

    def flush(self) -> None:
        self._now().flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._now().fileno()


_OUT = _Out()
