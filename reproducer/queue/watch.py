"""Shows what running stages do. It is read from their notes in the store, whatever process runs them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from reproducer.queue.artifact import Failure
from reproducer.queue.attempt import End
from reproducer.queue.progress import Progress
from reproducer.queue.stage import Stage, topological
from reproducer.queue.store import Store

LOOK_SECONDS = 0.2
STATUS_SECONDS = 2.0


class Watch:
    """A thread that reads the notes of those who hold stages, and shows them on `progress`.

    What stages say is shown of the stages of `run` only, as others' runs show theirs.
    """

    def __init__(self, store: Store, run: str, progress: Progress) -> None:
        self._store, self._run, self._progress = store, run, progress
        self._stages: dict[str, Stage] = {}
        self._shown: dict[str, int] = {}  # by the token of a hold: how many of its messages
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def add(self, stage: Stage) -> None:
        """Watch a stage that is about to run, or that another run is at."""
        with self._lock:
            self._stages[stage.key] = stage

    def remove(self, stage: Stage, end: End | None = None) -> None:
        """A stage runs no more, its process having ended so or died: show what was not shown yet."""
        with self._lock:
            if end is None:
                self._look(stage)
            else:
                if end.status == "done" and stage.key not in self._progress.running:
                    self._progress.start(stage)
                self._say(end.messages, end.token)
            self._stages.pop(stage.key, None)

    def check(self) -> None:
        """Raise the error that ended the display, if any: its reader has gone."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop looking."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        try:
            while not self._ended.wait(LOOK_SECONDS):
                with self._lock:
                    for stage in self._stages.values():
                        self._look(stage)
                    self._progress.tick()
        except Exception as error:
            self._error = error

    def _look(self, stage: Stage) -> None:
        holder = self._store.lock(stage).holder()
        if holder is None:
            return
        if holder.run == self._run:
            if holder.progress is not None and stage.key not in self._progress.running:
                self._progress.start(stage)
            self._say(holder.messages, holder.token)
        if holder.progress is not None:
            self._progress.update(stage, *holder.progress)

    def _say(self, messages: Sequence[str], token: str) -> None:
        for message in messages[self._shown.get(token, 0) :]:
            self._progress.say(message)
        self._shown[token] = len(messages)


def follow(stages: Iterable[Stage], store: Store, progress: Progress) -> None:
    """Show what has become of stages and what runs, on whatever machine, until all are done. Changes nothing."""
    waiting = topological(stages)
    number = len(waiting)
    failures: dict[str, Failure] = {}
    waiting = [stage for stage in waiting if store.read(stage) is None]
    progress.begin(waiting, number - len(waiting), store.typical_seconds(stage.kind for stage in waiting))
    try:
        while waiting:
            for stage in waiting:
                if artifact := store.read(stage):
                    progress.finish(stage, "done", artifact.seconds)
                elif holder := store.holder(stage):
                    done, total, text = holder.progress or (0.0, 0.0, "")
                    progress.update(stage, done, total, f"{text} on {holder.host}, {holder.device}".lstrip())
                else:
                    progress.running.pop(stage.key, None)
                    if (failure := store.failure(stage)) and failures.get(stage.key) != failure:
                        failures[stage.key] = failure
                        progress.say(f"{stage.label}: failed at {failure.when}: {failure.message}")
            waiting = [stage for stage in waiting if stage.key in progress.pending]
            progress.slots = max(1, len(progress.running))
            progress.tick()
            if waiting:
                time.sleep(STATUS_SECONDS)
    finally:
        progress.close()
