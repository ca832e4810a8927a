"""Several processes on one study."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Lock
from pathlib import Path

import torch

from reproducer.search.objective import Objective
from reproducer.search.settings import SearchSettings
from reproducer.search.space import Space
from reproducer.search.trials import Phase, Worker, fail_unfinished, open_study

log = logging.getLogger(__name__)

Build = Callable[[], Objective]


def work_together(worker: Worker, build: Build) -> None:
    """Do the phase's trials in this process and as many others as the settings ask for.

    A process that dies takes no more than its trial with it: that one is marked as failed, and made up for here.

    Args:
        worker: this process's.
        build: makes the objective of another process; it is pickled.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks, threads and CUDA
    lock, count = context.Lock(), worker.settings.workers
    names = [study.study_name for study in worker.earlier]
    shared = (build, worker.space, worker.settings, worker.directory, worker.phase, names, lock)
    processes = [context.Process(target=_join, args=(*shared, number)) for number in range(1, count)]
    try:
        for process in processes:
            process.start()
        with _threads(count):
            worker.work(lock)
        for process in processes:
            process.join()
            if process.exitcode:
                log.warning("a process of the search ended with exit code %d; the others go on", process.exitcode)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
                process.join()
    fail_unfinished(worker.study)
    worker.work()


def _join(
    build: Build,
    space: Space,
    settings: SearchSettings,
    directory: Path,
    phase: Phase,
    earlier: list[str],
    lock: Lock,
    number: int,
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with _threads(settings.workers):
            study, before = open_study(directory, phase.study), [open_study(directory, name) for name in earlier]
            worker = Worker(build(), space, settings, directory, study, phase, before, number=number)
            worker.work(lock)
    except KeyboardInterrupt:
        os._exit(130)  # the parent was interrupted too and says so


@contextmanager
def _threads(workers: int) -> Iterator[None]:
    """Share the processor among the processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _end_with_parent() -> None:
    # A parent that was killed cannot end its workers, and a search that is taken up again is alone with its study.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
