"""A Ray cluster, or Ray on this machine. Ray is imported when an engine is made, and not before."""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Future, wait
from contextlib import suppress
from functools import cache, partial
from typing import Any

from reproducer.errors import UserError
from reproducer.queue.engines import register
from reproducer.queue.engines.local import GRACE_SECONDS

INSTALL = "pip install 'reproducer[ray]'"
LOOK_SECONDS = 1.0  # how often it is asked which nodes there are, and whether a worker's node is
# variables of this process that calls elsewhere see too
TAKEN_ALONG = ("REPRODUCER_", "HF_", "TOKENIZERS_", "AWS_", "GOOGLE_", "FSSPEC_")


@register("ray")
class Ray:
    """Tasks of a Ray cluster, each with its resources: processors, memory, and a GPU where nodes have any.

    Ray says where a task runs. It does not repeat one: who submitted the call does, and says so. A task sees the
    modules that this process finds, its working directory, and the variables of `TAKEN_ALONG`.

    Args:
        slots: calls at once, at most; 0: as many as the nodes have room for. On a node of n processors there are about
            √n tasks of √n threads each, as on one machine (see `fitting_slots`), or one for each GPU.
        device: `auto`, `cpu` or `cuda`.
        address: of the cluster, `auto` for the one that runs on this machine. None: the one that RAY_ADDRESS names, or
            else Ray is started on this machine, and ends with the engine.

    Raises:
        UserError: Ray is not installed, or the cluster is not there or has no such device.
    """

    elsewhere = True

    def __init__(self, slots: int = 0, device: str = "auto", address: str | None = None) -> None:
        self._ray = ray = library()
        self._limit = slots
        self._calls: dict[Future[Any], Any] = {}  # the open ones, and their references
        self._changing = threading.Lock()
        self._processor = "CPU"  # the kind that each task has
        self._looked = -math.inf
        self._nodes: list[dict[str, float]] = []
        self._joined = not ray.is_initialized()
        if self._joined:
            _join(ray, address or os.environ.get("RAY_ADDRESS") or "local")
        try:
            gpus = any(node.get("GPU") for node in self._look())
            if device not in ("auto", "cpu", "cuda"):
                raise UserError(f"--device {device}: Ray says which GPU a stage has", "take auto, cuda or cpu")
            if device == "cuda" and not gpus:
                raise UserError(
                    "--device cuda: no node of the Ray cluster has a GPU", "take cpu, or leave --device out"
                )
            self._processor = "GPU" if gpus and device != "cpu" else "CPU"
            self.devices = ("cuda",) if self._processor == "GPU" else ("cpu",)
            self._threads = self._share()
        except BaseException:
            self.close()
            raise
        self._task = ray.remote(_call)

    @property
    def slots(self) -> int:
        """See `Engine`; 0 while there is no node to run on."""
        room = sum(self._room(node) for node in self._look())
        return min(self._limit, room) if self._limit else room

    def _room(self, node: Mapping[str, float]) -> int:
        processors = int(node.get("CPU", 0) // self._threads)
        return min(processors, int(node["GPU"])) if self._processor == "GPU" else processors

    def _share(self) -> int:
        """Processors of a task."""
        processors = [int(node.get("CPU", 0)) for node in self._look()]
        if not processors:
            return 1
        if self._processor == "GPU":
            return max(1, min(int(node.get("CPU", 0) // node["GPU"]) for node in self._look()))
        if self._limit:
            return max(1, min(sum(processors) // self._limit, *processors))
        return max(1, math.isqrt(min(processors)))

    def _look(self) -> list[dict[str, float]]:
        """The resources of every node that has what tasks run on."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._looked = time.monotonic()
        return [node for node in self._nodes if node.get(self._processor, 0) >= 1]

    def submit(self, function: Callable[..., Any], /, *arguments: Any, memory: int = 0) -> Future[Any]:
        """See `Engine`. `memory` in bytes; where no node has as much, the task gets all that the largest node has."""
        largest = max((node.get("memory", 0) for node in self._look()), default=memory)
        resources = {
            "num_cpus": self._threads,
            "num_gpus": int(self._processor == "GPU"),
            "memory": int(min(memory, largest)),
        }
        environment = {name: value for name, value in os.environ.items() if name.startswith(TAKEN_ALONG)}
        path = [os.path.abspath(folder) for folder in sys.path]
        task = self._task.options(max_retries=0, **resources)
        reference = task.remote(environment, os.getcwd(), path, pickle.dumps((function, arguments)))
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._changing:
            self._calls[future] = reference
        reference.future().add_done_callback(partial(self._settle, future))
        return future

    def _settle(self, future: Future[Any], done: Future[bytes]) -> None:
        errors, error = self._ray.exceptions, done.exception()
        with self._changing:
            self._calls.pop(future, None)
        if error is None:
            try:
                good, result = pickle.loads(done.result())
            except Exception as unreadable:  # of another version than this process has, say
                good, result = False, unreadable
            future.set_result(result) if good else future.set_exception(result)
        elif isinstance(error, errors.RayTaskError) and not isinstance(error, errors.TaskCancelledError):
            what = str(error).strip().rpartition("\n")[2]  # the last line of a traceback
            hint = "install the same versions of the same packages on every node"
            future.set_exception(UserError(f"a node of the Ray cluster cannot run stages: {what}", hint))
        else:
            future.set_exception(BrokenExecutor(f"the worker has ended: {error}"))

    def close(self) -> None:
        """See `Engine`. A task that does not break off in time is killed, its worker with it."""
        for force in (False, True):
            with self._changing:
                calls = dict(self._calls)
            for reference in calls.values():
                with suppress(self._ray.exceptions.RayError, ValueError):
                    self._ray.cancel(reference, force=force)
            wait(calls, GRACE_SECONDS)
        if self._joined:
            self._joined = False
            self._ray.shutdown()


def library() -> Any:
    """The package ray. UserError: it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(f"the engine 'ray' needs the package ray, which is not here: {error}", INSTALL) from None
    return ray


def _join(ray: Any, address: str) -> None:
    """Become a driver of the cluster. What SIGTERM does stays as it was: Ray would end the process in its own way."""
    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    on_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray's own kinds, and those of what it talks through
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        hint = "`ray start --head` starts one; without an address Ray runs on this machine alone"
        raise UserError(f"there is no Ray cluster at {address}: {reason}", hint) from None
    finally:
        if on_main:
            signal.signal(signal.SIGTERM, before)
    # Of each worker and node that is lost it prints pages of its own log into the display; the run says what was lost.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None


# on a node


def _call(environment: Mapping[str, str], directory: str, path: list[str], call: bytes) -> bytes:
    """Whether the call returned, and its result or its error."""
    _end_with_node()
    before = signal.signal(signal.SIGTERM, _break_off)
    try:
        os.environ.update(environment)
        sys.path.extend(folder for folder in path if folder not in sys.path)
        _enter(directory)
        function, arguments = pickle.loads(call)
        return pickle.dumps((True, function(*arguments)))
    except Exception as error:
        return pickle.dumps((False, error))
    except _Terminated:
        os._exit(1)  # which Ray reports as a lost worker
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """The node, or the job that it is part of, is to end. Ray's own handler raises what reads as a stage's failure."""


def _break_off(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the cleaning up
    raise _Terminated


def _enter(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        hint = "run in a folder that every node has, under the same path"
        raise UserError(f"the folder {directory} is not on every node of the cluster: {error.strerror}", hint) from None


@cache
def _end_with_node() -> None:
    """Once a process: end with the node's own process. Ray leaves one that is busy to run on without it."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="node", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)
