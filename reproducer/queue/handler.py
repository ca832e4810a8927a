"""What does the work of a stage: a function, and the context it is called with."""

import copy
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproducer.queue.stage import Stage


@dataclass(frozen=True)
class Context:
    """What a handler's `run` gets. It writes into `directory` and reads from `inputs`, nothing else is its concern.

    Attributes:
        stage: the stage that runs.
        params: its own copy of the stage's parameters.
        directory: the folder for its files: empty, or, for a resumable handler, as an interrupted run left it.
            Files only, no links; the name `record.json` is taken. All that is there at the end is the artifact.
        inputs: the folder of each input's artifact, to be read only.
    """

    stage: Stage
    params: dict[str, Any]
    directory: Path
    inputs: dict[str, Path]
    _progress: Callable[[float, float, str], None]
    _say: Callable[[str], None]
    _record: Callable[[str, Any], None]

    def input_stage(self, name: str) -> Stage:
        """The stage behind the input `name`."""
        return self.stage.inputs[name]

    def progress(self, done: float, total: float, text: str = "") -> None:
        """Tell how far the stage is, in any unit. Cheap: call it as often as convenient."""
        self._progress(done, total, text)

    def say(self, text: str) -> None:
        """One line for the user."""
        self._say(text)

    def record(self, name: str, value: Any) -> None:
        """Put a JSON value under `facts` of the artifact's record. In a resumable stage it outlives a kill."""
        self._record(name, copy.deepcopy(value))


@dataclass(frozen=True)
class Handler:
    """How stages of one kind are done.

    Attributes:
        version: raised when the same recipe would now give another result; stages carry it in their keys.
        run: does the work; returns when all files are written. UserError for what a user can mend.
        resumable: `run` can go on in a folder that an interrupted run of the same stage left. The folder is
            emptied all the same if an input's content or a fingerprint has changed since.
        fingerprints: gives today's {source: digest} of everything outside the store that a stage with these
            parameters reads. Called before the stage runs (it joins the record) and before an artifact is
            reused (a difference makes it stale). If it raises, the stage fails with that error.
    """

    version: int
    run: Callable[[Context], None]
    resumable: bool = False
    fingerprints: Callable[[Mapping[str, Any]], dict[str, str]] | None = None


def load_handlers(handlers: Mapping[str, Handler] | str) -> Mapping[str, Handler]:
    """The mapping itself, or the one that "module:attribute" names."""
    if isinstance(handlers, str):
        module, _, attribute = handlers.partition(":")
        found: Mapping[str, Handler] = getattr(importlib.import_module(module), attribute)
        return found
    return handlers
