"""Which run is at which stage, where the machines share an object store and no file system.

    URL/locks/<key>/<n>.json   the n-th hold of a stage: a run, or that nobody has it since
    URL/runs/<run>             a number that the run counts up every few seconds, while it lives

The last number counts. Who wants the stage creates the next one, which succeeds for one alone, and then looks whether
it is the last. Who creates a number removes those before it, so one small object a stage stays. Who looked long ago may
create a removed number once more, and then finds a later one: a hold that was lost is never had again.

A process that dies cannot give back what it held. Its run's number stands still then; who has looked at it for a
minute, by its own clock, and has seen no change takes the stage over. Clocks of machines are never compared. A run that
was only paused, or cut off, may come back after that and finish its stage although another is at it: that costs time
and breaks nothing, as only one of the two artifacts can become the next version (remote.py), and who is late takes it.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime

from reproducer.errors import UserError
from reproducer.queue.locks import Holder
from reproducer.queue.objects import Objects

LOOK_SECONDS = 1.0  # how often, at most, it is asked for a stage that another run has
BEATS = 6  # times in a lease that a run shows that it lives
_NUMBER = re.compile(r"([0-9]+)\.json")


class Leases:
    """The stages that `run` holds. A thread counts up the run's number from the first one on.

    Args:
        seconds: how long a run may stand still before its stages are taken over.
    """

    def __init__(self, objects: Objects, run: str, seconds: float) -> None:
        self._objects, self._run, self._seconds = objects, run, seconds
        self._held: dict[str, int] = {}
        self._looked: dict[str, float] = {}
        self._holders: dict[str, Holder] = {}
        self._seen: dict[str, tuple[bytes | None, float]] = {}  # by run: its number, and since when it stands still
        self._number = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="leases", daemon=True)

    def acquire(self, key: str, device: str = "") -> bool:
        """Take the stage if nobody has it; never waits. UserError where the store cannot be used."""
        now = time.monotonic()
        if now - self._looked.get(key, -math.inf) < min(LOOK_SECONDS, self._seconds / 10):
            return False
        self._looked[key] = now
        before = self._numbers(key)
        last = max(before, default=0)
        if last and not self._is_free(key, last):
            return False
        if not self._thread.is_alive():
            self._beat()
            self._thread.start()
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        holder = Holder(os.getpid(), since, host=socket.gethostname(), device=device)
        mine = self._create(key, last + 1, {"run": self._run, "holder": asdict(holder)})
        if not mine or max(self._numbers(key), default=0) != last + 1:
            return False
        self._held[key] = last + 1
        self._objects.remove(*(_name(key, number) for number in before))
        return True

    def release(self, key: str) -> None:
        """Give the stage back, if this run has it still."""
        self._looked.pop(key, None)
        if (number := self._held.pop(key, None)) is not None and self._create(key, number + 1, {"run": None}):
            self._objects.remove(_name(key, number))

    def holder(self, key: str) -> Holder | None:
        """Who had the stage when it was asked for the last time."""
        return self._holders.get(key)

    def close(self) -> None:
        """Give all stages back. Where the store cannot be used any more, others take them over after a while."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(self._seconds / BEATS)
            with suppress(UserError):
                for key in list(self._held):
                    self.release(key)
                self._objects.remove(f"runs/{self._run}")

    def _numbers(self, key: str) -> list[int]:
        names = self._objects.names(f"locks/{key}")
        return [int(match[1]) for name in names if (match := _NUMBER.fullmatch(name))]

    def _create(self, key: str, number: int, hold: dict[str, object]) -> bool:
        return self._objects.create(_name(key, number), json.dumps({**hold, "by": self._run}).encode())

    def _is_free(self, key: str, number: int) -> bool:
        content = self._objects.read(_name(key, number))
        if content is None:  # there is a later one
            return False
        hold = json.loads(content)
        if (run := hold["run"]) is None:
            return True
        if holder := Holder.told(hold["holder"]):
            self._holders[key] = holder
        if self._is_dead(run):
            self._objects.remove(f"runs/{run}")
            return True
        return False

    def _is_dead(self, run: str) -> bool:
        number = self._objects.read(f"runs/{run}")
        known = self._seen.get(run)
        if known is None or (number is not None and number != known[0]):
            self._seen[run] = number, time.monotonic()
            return False
        return time.monotonic() - known[1] >= self._seconds

    def _live(self) -> None:
        while not self._ended.wait(self._seconds / BEATS):
            with suppress(UserError):  # said by whatever else is asked of the store
                self._beat()

    def _beat(self) -> None:
        self._number += 1
        self._objects.write(f"runs/{self._run}", str(self._number).encode())


def _name(key: str, number: int) -> str:
    return f"locks/{key}/{number}.json"
