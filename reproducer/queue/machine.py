"""What a stage costs (seconds, memory) and on which kind of machine it ran."""

import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

LOOK_SECONDS = 0.05  # how often the memory of the process is looked at
SAVE_SECONDS = 2.0  # how often what was spent is written down


@lru_cache
def describe_machine() -> dict[str, Any]:
    """Python, platform and CPU; nothing that names the host or its user."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": cores,  # those that this process may use
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cuda() -> Any:
    # Asking must not import torch, nor start CUDA: a stage that used neither has no device memory to count.
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


class Meter:
    """Measures what happens inside its `with` block, on top of what an interrupted attempt had spent.

    Attributes:
        seconds: wall time.
        peak_host_bytes: the largest growth of the resident set over its size at the start, looked at by a thread.
        peak_cuda_bytes: what torch reports as the most allocated at once, summed over devices.

    Args:
        before: the same three of earlier attempts at the same stage, by name.
        save: called every `SAVE_SECONDS`, and at the end, with the three for the next attempt.
    """

    def __init__(self, before: Mapping[str, Any], save: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._seconds_before = float(before.get("seconds", 0.0))
        self.peak_host_bytes = int(before.get("peak_host_bytes", 0))
        self.peak_cuda_bytes = int(before.get("peak_cuda_bytes", 0))
        self._save = save
        self._process = psutil.Process()
        self._ended = threading.Event()
        self._end: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time so far, earlier attempts included."""
        return self._seconds_before + (self._end or time.perf_counter()) - self._start

    @property
    def peak_memory_bytes(self) -> int:
        """Host and device memory together."""
        return self.peak_host_bytes + self.peak_cuda_bytes

    def spent(self) -> dict[str, Any]:
        """What a later attempt at the same stage goes on from."""
        names = ("seconds", "peak_host_bytes", "peak_cuda_bytes")
        return {name: getattr(self, name) for name in names}

    def __enter__(self) -> "Meter":
        if cuda := _cuda():
            for device in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(device)
        self._baseline = self._process.memory_info().rss
        self._start = time.perf_counter()
        self._thread = threading.Thread(target=self._watch, name="meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = time.perf_counter()
        self._ended.set()
        self._thread.join()
        self._sample()
        if cuda := _cuda():
            peak = sum(cuda.max_memory_allocated(device) for device in range(cuda.device_count()))
            self.peak_cuda_bytes = max(self.peak_cuda_bytes, peak)
        self._try_save()

    def _sample(self) -> None:
        self.peak_host_bytes = max(self.peak_host_bytes, self._process.memory_info().rss - self._baseline)

    def _watch(self) -> None:
        saved = time.monotonic()
        while not self._ended.wait(LOOK_SECONDS):
            self._sample()
            if time.monotonic() - saved >= SAVE_SECONDS:
                self._try_save()
                saved = time.monotonic()

    def _try_save(self) -> None:
        if self._save is not None:
            try:
                self._save(self.spent())
            except OSError:
                self._save = None  # a full disk is reported by the stage itself, not by its stopwatch
