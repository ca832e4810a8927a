"""How far a search is, in seconds: its parts take different times, and one need not begin where another ends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

Progress = Callable[[float, float, str], None]

RECENT = 12  # timings that tell how long the next ones take


@dataclass
class Pace:
    """Tells `progress` the seconds so far, and with those that are left.

    Attributes:
        counts: how many there are of each part.
        work: what one of each takes, in a common unit: for parts that have not been timed yet.
    """

    progress: Progress
    counts: Mapping[str, int]
    work: Mapping[str, float]
    clock: Callable[[], float] = time.monotonic
    _done: dict[str, int] = field(default_factory=dict)
    _times: dict[str, deque[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = self._last = self.clock()

    def tell(self, part: str, done: int, text: str = "") -> None:
        """So many of a part are done. What is done at its first call was so before, and says nothing of the pace."""
        now = self.clock()
        new = done - self._done.get(part, done)
        if new > 0:
            self._times.setdefault(part, deque(maxlen=RECENT)).append((now - self._last) / new)
        self._done[part], self._last = done, now
        if not self._times:
            self.progress(0.0, 1.0, text)
            return
        left = sum(max(0, count - self._done.get(name, 0)) * self._seconds(name) for name, count in self.counts.items())
        self.progress(now - self._began, now - self._began + left, text)

    def finish(self, part: str) -> None:
        """Nothing of a part is left."""
        self._done[part] = self.counts[part]
        self._last = self.clock()

    def _seconds(self, part: str) -> float:
        if part in self._times:
            return fmean(self._times[part])
        return self.work[part] * fmean(fmean(times) / self.work[name] for name, times in self._times.items())
