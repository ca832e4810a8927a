"""An engine of a user's own: a fresh Python for every call, as a cluster's scheduler would start one."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from typing import Any

from reproducer.queue.engines import register

# The call arrives on standard input, which stays open as long as the parent lives.
CHILD = """
import os, pickle, sys, threading
function, arguments = pickle.load(sys.stdin.buffer)
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(1)), daemon=True).start()
answer, sys.stdout = os.fdopen(os.dup(1), "wb"), sys.stderr
try:
    result = function(*arguments), None
except Exception as error:
    result = None, error
with answer:
    pickle.dump(result, answer)
os._exit(0)
"""


@register("fresh")
class Fresh:
    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._threads = ThreadPoolExecutor(slots)
        self._children: list[subprocess.Popen[bytes]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        return self._threads.submit(self._call, pickle.dumps((function, arguments)))

    def _call(self, call: bytes) -> Any:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0, "start_new_session": True}
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
        child = subprocess.Popen([sys.executable, "-c", CHILD], env=environment, **pipes)
        self._children.append(child)
        child.stdin.write(call)
        answer = child.stdout.read()
        if child.wait() != 0:
            raise BrokenExecutor(f"the process ended with {child.returncode}")
        result, error = pickle.loads(answer)
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.kill()
        self._threads.shutdown()
