"""Shows what running stages tell. It reaches this process by files in the store, from whatever process runs them."""

from __future__ import annotations

import json
import threading

from reproducer.queue.progress import Progress
from reproducer.queue.stage import Stage
from reproducer.queue.store import Store

LOOK_SECONDS = 0.2


class Watch:
    """A thread that reads the logs of `run` and the notes of those who hold stages, and shows them on `progress`."""

    def __init__(self, store: Store, run: str, progress: Progress) -> None:
        self._store = store
        self._run = run
        self._progress = progress
        self._stages: dict[str, tuple[Stage, int]] = {}  # by key, and how much of the log was read
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
            self._stages[stage.key] = (stage, 0)

    def remove(self, stage: Stage) -> None:
        """Show what is left to show of a stage; it runs no more."""
        with self._lock:
            if stage.key in self._stages:
                self._read(stage.key)
                self._store.log(stage, self._run).unlink(missing_ok=True)
                del self._stages[stage.key]

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
                    for key in self._stages:
                        self._read(key)
                    self._progress.tick()
        except Exception as error:
            self._error = error

    def _read(self, key: str) -> None:
        stage, start = self._stages[key]
        try:
            with self._store.log(stage, self._run).open("rb") as stream:
                stream.seek(start)
                whole = stream.read().rpartition(b"\n")[0]
        except OSError:
            whole = b""
        if whole:
            self._stages[key] = (stage, start + len(whole) + 1)
            for line in whole.split(b"\n"):
                event = json.loads(line)
                if "say" in event:
                    self._progress.say(event["say"])
                else:
                    self._progress.start(stage)
        holder = self._store.lock(stage).holder()
        if holder and holder.progress:
            self._progress.update(stage, *holder.progress)
