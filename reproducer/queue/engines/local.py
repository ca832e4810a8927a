"""This machine: this process, or processes of its own."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from queue import PriorityQueue
from typing import Any

import psutil

from reproducer.queue.engines import Engine, register
from reproducer.queue.machine import describe_machine

GRACE_SECONDS = 5.0  # that a worker has to break off what it is at, before it is killed
WORKER_MEMORY = 2 << 30  # bytes of a worker with torch and a small model, where nothing better is known
_FROM_TERMINAL = {signal.SIGINT, signal.SIGHUP}  # the terminal sends them to workers too; their parent ends them


@register("local")
def local(slots: int) -> Engine:
    """This process for one slot, else as many processes, which share the processor."""
    if slots == 1:
        return InProcess()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(wanted) if wanted.isdigit() else describe_machine()["cpu_count"]
    return Processes(slots, threads=max(1, threads // slots))


def fitting_slots(devices: Sequence[str] = ("cpu",), memory: int = WORKER_MEMORY) -> int:
    """How many slots fill this machine: one a device; on the CPU by its cores and free memory.

    Many small stages want many workers, a large one wants many threads: on n cores there are about √n of either.

    Args:
        devices: as for `run`.
        memory: bytes that the largest stage needs.
    """
    accelerators = {device for device in devices if device.partition(":")[0] != "cpu"}
    if accelerators:
        return len(accelerators)
    free = psutil.virtual_memory().available // max(memory, 1)
    return max(1, min(math.isqrt(describe_machine()["cpu_count"]), free))


class InProcess:
    """Runs a call in this very thread, at once: its future is finished when `submit` returns."""

    slots = 1

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Call `function`. Ctrl-C interrupts the call and leaves this method."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing to end."""


class Processes:
    """Spawned processes of this machine, each with one call at a time.

    A worker is a `ProcessPoolExecutor` of one process: in a shared pool, the death of one process ends all. Workers
    are started with their first call, the lowest idle one gets the next: a caller that numbers its own slots likewise
    meets the same process again. A worker ignores what the terminal sends; on SIGTERM it breaks off its call.

    Args:
        slots: the number of processes.
        threads: for a worker's arithmetic; None: what this process has.
    """

    def __init__(self, slots: int, threads: int | None = None) -> None:
        self.slots = slots
        self._workers = [_Worker(threads) for _ in range(slots)]
        self._idle: PriorityQueue[int] = PriorityQueue()
        for number in range(slots):
            self._idle.put(number)
        self._threads = ThreadPoolExecutor(slots, "worker")  # one waits for each call

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """See `Engine`."""
        return self._threads.submit(self._call, function, arguments)

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        number = self._idle.get()
        try:
            return self._workers[number].call(function, arguments)
        finally:
            self._idle.put(number)

    def close(self) -> None:
        """See `Engine`. A worker that does not break off in time is killed."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        processes = [process for worker in self._workers if (process := worker.end()) is not None]
        killer = threading.Timer(GRACE_SECONDS, _kill, (processes,))
        killer.daemon = True
        killer.start()
        try:
            for worker in self._workers:
                worker.join()
            self._threads.shutdown()
        finally:
            killer.cancel()


class _Worker:
    """One process, started with its first call, and anew after it was lost."""

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._pool: ProcessPoolExecutor | None = None
        self._pid: Future[int] | None = None
        self._ended = False
        self._changing = threading.Lock()

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        pool = self._pool or self._start()
        try:
            try:
                future = pool.submit(_call, function, arguments)
            except BrokenExecutor:  # it died between two calls
                pool = self._start()
                future = pool.submit(_call, function, arguments)
            return future.result()
        except (BrokenExecutor, KeyboardInterrupt) as error:  # the latter: by SIGTERM
            with self._changing:
                gone = not self._ended  # else `join` does it
                if gone:
                    self._pool = None
            if gone:
                # The pool knows of a death by a pipe, which the system may close before it lets go of the locks that
                # the process held: wait for its end. After a SIGTERM it takes its own time.
                pool.shutdown(wait=isinstance(error, BrokenExecutor))
            raise BrokenExecutor("the worker process has ended") from error

    def _start(self) -> ProcessPoolExecutor:
        with self._changing:
            if self._ended:
                raise BrokenExecutor("the engine is closed")
            context = multiprocessing.get_context("spawn")  # a fork would inherit locks, threads and CUDA
            # Blocked in the worker until `_begin` ignores them, so that none is interrupted in its imports, and for
            # good in multiprocessing's resource tracker, which starts with the pool (and undoes it here: hence twice).
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_TERMINAL)
            try:
                self._pool = pool = ProcessPoolExecutor(1, context, _begin, (self._threads,))
                signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_TERMINAL)
                self._pid = pool.submit(os.getpid)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return pool

    def end(self) -> BaseProcess | None:
        """Tell the process to break off; returns it if there is one."""
        with self._changing:
            self._ended = True
        try:
            pid = self._pid.result(GRACE_SECONDS) if self._pid else None
        except (BrokenExecutor, TimeoutError):
            return None
        for process in multiprocessing.active_children():
            if process.pid == pid:
                process.terminate()
                return process
        return None

    def join(self) -> None:
        if pool := self._pool:
            pool.shutdown()


def _kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.kill()


# in a worker

_calling = False
_ending = False


def _begin(threads: int | None) -> None:
    for number in _FROM_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FROM_TERMINAL)
    signal.signal(signal.SIGTERM, _break_off)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is loaded
        if torch := sys.modules.get("torch"):  # by the main module
            torch.set_num_threads(threads)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    global _calling
    try:
        _calling = True
        if _ending:
            raise KeyboardInterrupt
        return function(*arguments)
    finally:
        _calling = False


def _break_off(number: int, frame: object) -> None:
    global _ending
    first, _ending = not _ending, True
    if _calling and first:  # a second one must not break off the cleaning up
        raise KeyboardInterrupt


def _end_with_parent() -> None:
    # A parent that was killed cannot end its workers; a stage that runs on unseen would hold up the next run.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
