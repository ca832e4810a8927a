"""What a person sees while stages run: a live display on a terminal, plain lines elsewhere."""

import errno
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TextIO

from reproducer.queue.stage import Stage


@dataclass
class _Running:
    """A stage under way. `first` is when its first fraction came: a resumed stage does not start at 0."""

    stage: Stage
    since: float
    fraction: float = 0.0
    text: str = ""
    first: tuple[float, float] | None = None


@dataclass
class Progress:
    """Lines: one when a stage starts, one when it ends, between them one every `interval` seconds.

    Called by a run from two threads. Shows nothing without a `stream`; `clock` gives seconds and can be replaced in a
    test.
    """

    stream: TextIO | None = None
    interval: float = 25.0
    clock: Callable[[], float] = time.monotonic
    running: dict[str, _Running] = field(default_factory=dict, init=False)
    pending: dict[str, Stage] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers: dict[str, int] = {}
        self._seconds: dict[str, list[float]] = {}
        self._typical: Mapping[str, float] = {}
        self.slots, self._total = 1, 0
        self._shown = self.clock()

    def begin(self, stages: Sequence[Stage], cached: int, typical: Mapping[str, float], slots: int = 1) -> None:
        """A run starts: `stages` are still to be done, `cached` others are not; `typical` seconds per kind."""
        with self._lock:
            self.pending = {stage.key: stage for stage in stages}
            self._numbers = {stage.key: cached + index for index, stage in enumerate(stages, 1)}
            self._typical, self.slots, self._total = typical, slots, len(stages) + cached
            self.show(f"{_count(self._total, 'stage')}: {cached} in the store, {len(stages)} to do")

    def start(self, stage: Stage) -> None:
        """A stage starts."""
        with self._lock:
            self.running[stage.key] = _Running(stage, self.clock())
            self.show(f"{self._label(stage)}: started")

    def update(self, stage: Stage, done: float, total: float, text: str = "") -> None:
        """A running stage, of this run or another one, has come to `done` of `total`."""
        with self._lock:
            if stage.key in self.pending:
                running = self.running.setdefault(stage.key, _Running(stage, self.clock()))
                fraction = min(max(done / total, 0.0), 1.0) if total > 0 else 0.0
                if fraction < running.fraction / 2:  # another part of its work, with a speed of its own
                    running.first = None
                running.fraction, running.text = fraction, text
                running.first = running.first or (self.clock(), fraction)
                self.tick()

    def finish(self, stage: Stage, status: str, seconds: float | None = None, message: str = "") -> None:
        """A stage is settled."""
        with self._lock:
            self.running.pop(stage.key, None)
            self.pending.pop(stage.key, None)
            if status == "done" and seconds is not None:
                self._seconds.setdefault(stage.kind, []).append(seconds)
                message = f"in {duration(seconds)}"
            elif message:
                status, message = f"{status}:", message.replace("\n", "\n    ")
            self.show(f"{self._label(stage)}: {status} {message}".rstrip())

    def say(self, text: str) -> None:
        """A line for the user."""
        with self._lock:
            self.show(text)

    def time_left(self) -> tuple[float, bool] | None:
        """Estimated seconds until all is done, and whether every open stage is in it (else it is a lower bound).

        A running stage counts by the speed of its own fraction, or else, as one that waits, by what stages of its
        kind took: in this run, or else in the store. None where nothing is known.
        """
        with self._lock:
            estimates = [self._stage_left(running) for running in self.running.values()]
            estimates += [self._usual(stage.kind) for key, stage in self.pending.items() if key not in self.running]
            known = [estimate for estimate in estimates if estimate is not None]
            if not known:
                return None if estimates else (0.0, True)
            # Slots share the stages, but no stage can be divided.
            return max(*known, sum(known) / self.slots), len(known) == len(estimates)

    def _stage_left(self, running: _Running) -> float | None:
        now = self.clock()
        if running.first is not None:
            when, before = running.first
            if running.fraction > before and now > when:
                return (now - when) * (1 - running.fraction) / (running.fraction - before)
        usual = self._usual(running.stage.kind)
        return None if usual is None else max(usual - (now - running.since), 0.0)

    def _usual(self, kind: str) -> float | None:
        return median(self._seconds[kind]) if kind in self._seconds else self._typical.get(kind)

    def _label(self, stage: Stage) -> str:
        return f"[{self._numbers.get(stage.key, 0)}/{self._total}] {stage.label}"

    def _left_text(self) -> str:
        left = self.time_left()
        if left is None:
            return "time left unknown"
        return f"{'about' if left[1] else 'at least'} {duration(left[0])} left"

    # what a live display does otherwise

    def show(self, text: str) -> None:
        """A line that stays."""
        self._shown = self.clock()
        if self.stream is not None:
            with _terminal_may_be_gone():
                print(text, file=self.stream, flush=True)

    def tick(self) -> None:
        """Time has passed, or a stage has come further."""
        with self._lock:
            if self.running and self.clock() - self._shown >= self.interval:
                running = max(self.running.values(), key=lambda stage: (stage.first is not None, stage.since))
                so_far = f"{running.fraction:.0%}" if running.first else f"for {duration(self.clock() - running.since)}"
                note = f" ({running.text})" if running.text else ""
                self.show(f"{self._label(running.stage)}: {so_far}{note}, {self._left_text()}")

    def close(self) -> None:
        """The run has ended, however it did."""


@dataclass
class LiveProgress(Progress):
    """The same lines above bars of what runs: how far, for how long, and the time left in all.

    Args:
        console: a `rich.console.Console`.
    """

    console: Any = None
    _live: Any = field(default=None, init=False, repr=False)

    def begin(self, stages: Sequence[Stage], cached: int, typical: Mapping[str, float], slots: int = 1) -> None:
        """See `Progress`."""
        from rich.live import Live

        super().begin(stages, cached, typical, slots)
        self._live = Live(console=self.console, get_renderable=self._bars, transient=True)
        self._live.start()

    def _bars(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        with self._lock:
            settled = self._total - len(self.pending)
            rows = [(f"{settled} of {_count(self._total, 'stage')}", settled / max(self._total, 1), self._left_text())]
            for running in self.running.values():
                so_far = f"{running.fraction:4.0%}  {duration(self.clock() - running.since)}  {running.text}"
                rows.append((running.stage.label, running.fraction, so_far))
        for label, fraction, note in rows:
            table.add_row(Text(label), ProgressBar(1.0, fraction, width=24), Text(note))
        return table

    def show(self, text: str) -> None:
        """See `Progress`."""
        with _terminal_may_be_gone():
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def tick(self) -> None:
        """See `Progress`. The bars are drawn by a thread of their own."""

    def close(self) -> None:
        """Take the bars away; the lines stay."""
        if self._live:
            with _terminal_may_be_gone():
                self._live.stop()


def console_progress(stream: TextIO | None = None) -> Progress:
    """The display that fits `stream` (standard output by default): live on a terminal, plain lines otherwise."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return Progress(stream)
    from rich.console import Console

    return LiveProgress(console=Console(file=stream))


@contextmanager
def _terminal_may_be_gone() -> Iterator[None]:
    # The system then sends a SIGHUP, which ends the run in order; under nohup the run goes on without a display.
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def duration(seconds: float) -> str:
    """Seconds for a person: `0.4 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02} s"
    minutes = round(rounded / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
