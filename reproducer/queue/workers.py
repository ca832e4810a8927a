"""Further processes of one run. All they share with it is the store; a pipe carries what the display shows."""

import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, cast

from reproducer.errors import UserError
from reproducer.queue.handler import load_handlers
from reproducer.queue.progress import Progress
from reproducer.queue.runner import Runner
from reproducer.queue.stage import Stage
from reproducer.queue.store import Store

LEAVING_SECONDS = 10  # that a worker may take to see that nothing is left, and to end by itself

Shared = tuple[Sequence[Stage], str, Path, Mapping[str, Any], str]  # stages, handlers, root, environment, run


class Workers:
    """Spawned processes that walk over the same stages, showing what they do on `progress`."""

    def __init__(self, shared: Shared, progress: Progress) -> None:
        self._progress = progress
        self._shared = shared
        self._stages = {stage.key: stage for stage in shared[0]}
        self._fatal: str | None = None
        self._closing = False
        self._processes: dict[Connection, SpawnProcess] = {}
        self._listener = threading.Thread(target=self._listen, name="workers", daemon=True)

    @property
    def pids(self) -> frozenset[int]:
        """Their process ids."""
        return frozenset(process.pid or 0 for process in self._processes.values())

    def start(self, count: int) -> None:
        """Start `count` of them."""
        context = multiprocessing.get_context("spawn")  # a fork would inherit locks, threads and CUDA
        for _ in range(count):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(theirs, *self._shared))
            process.start()
            self._processes[ours] = process
            theirs.close()  # so that its death is the end of the pipe
        self._listener.start()

    def check(self) -> None:
        """Raise the error that made a worker end the run, if any."""
        if self._fatal is not None:
            raise UserError(self._fatal)

    def leave(self) -> None:
        """Let the workers end by themselves, as nothing is left to do: what they hold is then given back in order."""
        self._closing = True
        for process in self._processes.values():
            process.join(LEAVING_SECONDS)

    def close(self) -> None:
        """End the workers that are still there: the run has been broken off, or one hangs."""
        self._closing = True
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join()
        if self._listener.is_alive():
            self._listener.join()

    def _listen(self) -> None:
        pipes = set(self._processes)
        while pipes:
            for pipe in cast(list[Connection], wait(list(pipes))):
                try:
                    self._show(*pipe.recv())
                except (EOFError, OSError):
                    pipes.discard(pipe)
                    self._lost(pipe)

    def _lost(self, pipe: Connection) -> None:
        process = self._processes[pipe]
        process.join()
        if process.exitcode and not self._closing:
            self._progress.say(f"a worker died (exit code {process.exitcode}); another takes over its stage")

    def _show(self, what: str, key: str, *details: Any) -> None:
        if what == "fatal":
            self._fatal = key
        elif what == "say":
            self._progress.say(key)
        elif what == "start":
            self._progress.start(self._stages[key])
        elif what == "update":
            self._progress.update(self._stages[key], *details)
        else:
            self._progress.finish(self._stages[key], *details)


class _Remote(Progress):
    """Sends what happens in a worker to the process that shows it."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe
        self._sent = 0.0

    def send(self, *message: Any) -> None:
        """A message for `Workers._show`."""
        with self._lock:
            try:
                self._pipe.send(message)
            except OSError:
                os._exit(1)  # the parent is gone, see _end_with_parent

    def start(self, stage: Stage) -> None:
        self.send("start", stage.key)

    def update(self, stage: Stage, done: float, total: float, text: str = "") -> None:
        if self.clock() - self._sent >= 0.2:
            self._sent = self.clock()
            self.send("update", stage.key, done, total, text)

    def finish(self, stage: Stage, status: str, seconds: float | None = None, message: str = "") -> None:
        self.send("finish", stage.key, status, seconds, message)

    def say(self, text: str) -> None:
        self.send("say", text)


def _work(
    pipe: Connection,
    stages: Sequence[Stage],
    handlers: str,
    root: Path,
    environment: Mapping[str, Any],
    run_id: str,
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    progress = _Remote(pipe)
    try:
        runner = Runner(list(stages), load_handlers(handlers), Store(root), progress, environment, run_id)
        runner.announce = False
        runner.collect()
        runner.loop()
    except UserError as error:
        progress.send("fatal", str(error))
    except KeyboardInterrupt:
        pass  # the parent was interrupted too and says so


def _end_with_parent() -> None:
    # A parent that was killed cannot end its workers; a stage that runs on unseen would hold up the next run.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
