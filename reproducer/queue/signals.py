"""SIGTERM (a cluster takes the machine back) and SIGHUP (the terminal is closed) end a program as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

AGAIN_SECONDS = 0.01
SHOW_CURSOR = b"\x1b[?25h"
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal has asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = signal.Signals(number)


def exit_code(error: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells count: 130 for Ctrl-C."""
    return 128 + (error.signal if isinstance(error, Interrupted) else signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """In the `with` block the first SIGINT, SIGTERM or SIGHUP raises `Interrupted` in the main thread.

    Where Python drops what a handler raises, in a finaliser or a callback of the garbage collector, it is raised again.
    From then on, after the block too, a Ctrl-C ends the process at once with code 130: no exit handler runs, and the
    cursor is shown again. Other signals are then ignored: an end is under way. One that was ignored before the block
    (by nohup, or a shell's background job) stays so. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if number == signal.SIGHUP:
            _write_to_terminals(SHOW_CURSOR)
        if not interrupted:
            interrupted = True
            raise Interrupted(number)
        if number == signal.SIGINT:
            _write_to_terminals(SHOW_CURSOR + b"\n")
            os._exit(exit_code(Interrupted(number)))

    def unraisable(dropped: Any) -> None:
        nonlocal interrupted
        if not isinstance(dropped.exc_value, Interrupted):
            report(dropped)
            return
        interrupted = False
        again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), dropped.exc_value.signal))
        again.daemon = True
        again.start()

    report, sys.unraisablehook = sys.unraisablehook, unraisable
    before = {number: signal.getsignal(number) for number in _HANDLED}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        sys.unraisablehook = report
        if not interrupted:
            for number, handler in before.items():
                signal.signal(number, handler)


def _write_to_terminals(content: bytes) -> None:
    """Write past buffered streams, which may be in use. What is said later to a terminal that is gone is dropped."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):  # isatty() is false of a terminal that was closed
                try:
                    os.write(descriptor, content)
                except OSError:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
