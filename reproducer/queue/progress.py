"""What a person sees while stages run: a live display on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
    """Keeps the books of a run and shows nothing: the silent display, and what the others are built on.

    Called by the executor from several threads. `clock` gives seconds and can be replaced in a test.
    """

    clock: Callable[[], float] = time.monotonic
    running: dict[str, _Running] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._pending: dict[str, Stage] = {}
        self._numbers: dict[str, int] = {}
        self._seconds: dict[str, list[float]] = {}
        self._typical: Mapping[str, float] = {}
        self._jobs = 1
        self._total = 0

    def begin(self, stages: Sequence[Stage], cached: int, typical: Mapping[str, float], jobs: int = 1) -> None:
        """A run starts: `stages` are still to be done, `cached` others are not; `typical` seconds per kind."""
        with self._lock:
            self._pending = {stage.key: stage for stage in stages}
            self._numbers = {stage.key: cached + index for index, stage in enumerate(stages, 1)}
            self._typical = typical
            self._jobs = jobs
            self._total = len(stages) + cached
            self._on_begin(cached)

    def start(self, stage: Stage) -> None:
        """A stage starts."""
        with self._lock:
            self.running[stage.key] = _Running(stage, self.clock())
            self._line(f"{self._label(stage)}: started")

    def update(self, stage: Stage, done: float, total: float, text: str = "") -> None:
        """A running stage has come to `done` of `total`."""
        with self._lock:
            if one := self.running.get(stage.key):
                one.fraction = min(max(done / total, 0.0), 1.0) if total > 0 else 0.0
                one.text = text
                one.first = one.first or (self.clock(), one.fraction)
                self._on_update(one)

    def finish(self, stage: Stage, status: str, seconds: float | None = None, message: str = "") -> None:
        """A stage is settled. What is said twice (by a worker and by who waited for it) is shown once."""
        with self._lock:
            self.running.pop(stage.key, None)
            label = self._label(stage)
            if self._pending.pop(stage.key, None) is None:
                return
            if status == "done" and seconds is not None:
                self._seconds.setdefault(stage.kind, []).append(seconds)
                self._line(f"{label}: done in {duration(seconds)}")
            else:
                lines = message.replace("\n", "\n    ")
                self._line(f"{label}: {status}" + (f": {lines}" if lines else ""))

    def say(self, text: str) -> None:
        """A line for the user."""
        with self._lock:
            self._line(text)

    def close(self) -> None:
        """The run has ended, however it did."""

    def time_left(self) -> tuple[float, bool] | None:
        """Estimated seconds until all is done, and whether every open stage is in it (else it is a lower bound).

        A running stage counts by the speed of its own fraction, or else, as one that waits, by what stages of its
        kind took: in this run, or else in the store. None where nothing is known.
        """
        with self._lock:
            estimates = [self._stage_left(one) for one in self.running.values()]
            estimates += [self._usual(stage.kind) for key, stage in self._pending.items() if key not in self.running]
            known = [one for one in estimates if one is not None]
            if not known:
                return None if estimates else (0.0, True)
            # Jobs share the stages, but no stage can be divided.
            return max(*known, sum(known) / self._jobs), len(known) == len(estimates)

    def _stage_left(self, one: _Running) -> float | None:
        now = self.clock()
        if one.first is not None:
            when, before = one.first
            if one.fraction > before and now > when:
                return (now - when) * (1 - one.fraction) / (one.fraction - before)
        usual = self._usual(one.stage.kind)
        return None if usual is None else max(usual - (now - one.since), 0.0)

    def _usual(self, kind: str) -> float | None:
        return median(self._seconds[kind]) if kind in self._seconds else self._typical.get(kind)

    def _label(self, stage: Stage) -> str:
        return f"[{self._numbers.get(stage.key, 0)}/{self._total}] {stage.label}"

    def _left_text(self) -> str:
        left = self.time_left()
        if left is None:
            return "time left unknown"
        return f"{'about' if left[1] else 'at least'} {duration(left[0])} left"

    # what a display adds

    def _on_begin(self, cached: int) -> None:
        pass

    def _on_update(self, one: _Running) -> None:
        pass

    def _line(self, text: str) -> None:
        pass


@dataclass
class PlainProgress(Progress):
    """Lines: one when a stage starts, one when it ends, between them at most one every `interval` seconds."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    interval: float = 30.0

    def _on_begin(self, cached: int) -> None:
        self._last = self.clock()
        self._line(f"{_count(self._total, 'stage')}: {cached} in the store, {len(self._pending)} to do")

    def _on_update(self, one: _Running) -> None:
        if self.clock() - self._last >= self.interval:
            note = f" ({one.text})" if one.text else ""
            self._line(f"{self._label(one.stage)}: {one.fraction:.0%}{note}, {self._left_text()}")

    def _line(self, text: str) -> None:
        self._last = self.clock()
        print(text, file=self.stream, flush=True)


@dataclass
class LiveProgress(PlainProgress):
    """The same lines above a live table of what runs: how far, for how long, and the time left in all.

    Args:
        console: a `rich.console.Console`; one on standard output by default.
        refresh: redrawn so many times a second; 0: only by `Progress` calls, for tests.
    """

    console: Any = None
    refresh: float = 4.0
    _live: Any = field(default=None, init=False, repr=False)

    def _on_begin(self, cached: int) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = self.console or Console()
        self._live = Live(
            console=self.console,
            get_renderable=self._table,
            auto_refresh=self.refresh > 0,
            refresh_per_second=self.refresh or 4.0,
            transient=True,
        )
        super()._on_begin(cached)
        self._live.start()

    def _on_update(self, one: _Running) -> None:
        if not self.refresh:
            self._live.refresh()

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the live table away; the lines stay."""
        if self._live:
            self._live.stop()

    def _table(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        with self._lock:
            for one in self.running.values():
                table.add_row(
                    Text(one.stage.label, no_wrap=True, overflow="ellipsis"),
                    ProgressBar(total=1.0, completed=one.fraction, width=24),
                    Text(f"{one.fraction:4.0%}"),
                    Text(duration(self.clock() - one.since), no_wrap=True),
                    Text(one.text, no_wrap=True, overflow="ellipsis"),
                )
            settled = self._total - len(self._pending)
            summary = Text(f"{settled} of {_count(self._total, 'stage')}, {self._left_text()}")
        return Group(table, summary)


def console_progress(stream: TextIO | None = None) -> Progress:
    """The display that fits `stream` (standard output by default): live on a terminal, plain lines otherwise."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return PlainProgress(stream=stream)
    from rich.console import Console

    return LiveProgress(console=Console(file=stream))


def duration(seconds: float) -> str:
    """Seconds for a person: `0.4 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
