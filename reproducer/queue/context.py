"""What a stage is run with."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproducer.queue.engines import Engine
from reproducer.queue.stage import KEY_LENGTH, canonical


@dataclass(frozen=True)
class Context:
    """What a stage's `run` gets. It writes into `directory` and reads from `inputs`, nothing else is its concern.

    Attributes:
        directory: the folder for its files: empty, or, for a resumable stage, as an interrupted run left it.
            Files only, no links; the name `record.json` is taken. All that is there at the end is the artifact.
        inputs: the folder of each input's artifact, to be read only.
        device: where to compute.
    """

    directory: Path
    inputs: dict[str, Path]
    device: str = "cpu"
    _shared: Path = Path("shared")
    _digests: Mapping[str, str] = field(default_factory=dict)
    _progress: Callable[[float, float, str], None] = lambda done, total, text: None
    _say: Callable[[str], None] = lambda text: None
    _record: Callable[[str, Any], None] = lambda name, value: None
    _until_end: ExitStack = field(default_factory=ExitStack)

    def progress(self, done: float, total: float, text: str = "") -> None:
        """Tell how far the stage is, in any unit. Cheap: call it as often as convenient."""
        self._progress(done, total, text)

    def say(self, text: str) -> None:
        """A message for the user."""
        self._say(text)

    def record(self, name: str, value: Any) -> None:
        """Put a JSON value under `facts` of the artifact's record. In a resumable stage it outlives a kill."""
        self._record(name, copy.deepcopy(value))

    def shared(self, owner: str, **what: Any) -> Path:
        """A folder for what other stages may find useful again; the stage's inputs' content and `what` determine it.

        It need not be there, several processes may fill it at once, and it may go at any time: a cache.

        Args:
            owner: the name of an input, with whose artifact `reproduce clean` removes the folder.
            what: JSON values.
        """
        name = canonical({"inputs": dict(self._digests), "what": what})
        digest = hashlib.sha256(name.encode()).hexdigest()[:KEY_LENGTH]
        return self._shared / f"{self.inputs[owner].name}-{digest}"

    def engine(self, count: int) -> Engine:
        """`count` processes beside this one, for calls of the stage's own; they end with the stage."""
        from reproducer.queue.engines.local import Processes

        engine = Processes(count)
        self._until_end.callback(engine.close)
        return engine

    def enter(self, manager: AbstractContextManager[object]) -> None:
        """Enter a context that is left when the stage ends."""
        self._until_end.enter_context(manager)

    def close(self) -> None:
        """End the stage's engines, and leave what it has entered."""
        self._until_end.close()
