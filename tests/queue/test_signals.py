"""How a program ends when it is asked to, on a terminal of its own."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from reproducer.queue import Interrupted, interruptible

HERE = Path(__file__).parent
PROGRAM = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from queue_stages import Wait
from reproducer.queue import ENGINES, Store, console_progress, exit_code, interruptible, run
with interruptible():
    try:
        engine = ENGINES.get("local")(int(sys.argv[2]))
        run([Wait(label="the long one")], Store(sys.argv[1]), engine, progress=console_progress())
    except KeyboardInterrupt as error:
        print("interrupted", flush=True)
        code = exit_code(error)
if sys.argv[3] == "hang":
    ThreadPoolExecutor(1).submit(time.sleep, 600)  # what exit handlers will wait for
sys.exit(code)
"""


class Terminal:
    """A program on a pseudo-terminal, and all that it has written there."""

    def __init__(self, folder: Path, slots: int = 1, then: str = "exit") -> None:
        self.log = folder / "log"
        path = os.pathsep.join([str(HERE), *sys.path])
        environment = dict(
            os.environ, TERM="xterm", PYTHONPATH=path, QUEUE_LOG=str(self.log), QUEUE_GO=str(folder / "go")
        )
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder / "store"), str(slots), then],
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_begin,
        )
        os.close(slave)
        self.written = b""
        self.closed = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        try:
            while not self.closed.is_set():
                if select.select([self.master], [], [], 0.05)[0]:
                    self.written += os.read(self.master, 1 << 12)
        except OSError:
            pass  # the last one has closed its side

    def until(self, words: bytes) -> None:
        end = time.monotonic() + 30
        while words not in self.written:
            assert time.monotonic() < end, self.written
            time.sleep(0.01)

    def end(self) -> tuple[int, str]:
        code = self.process.wait(30)
        self.reader.join(10)
        return code, self.written.decode()

    def close(self) -> None:
        self.closed.set()
        self.reader.join()
        os.close(self.master)

    def cursor_is_shown(self) -> bool:
        return self.written.rfind(b"\x1b[?25h") > self.written.rfind(b"\x1b[?25l") > -1


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(tmp_path):
    """Starts a run that waits."""
    started = []

    def start(**more):
        started.append(Terminal(tmp_path, **more))
        started[-1].until(b"half asleep")
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_in_order(terminal, number, slots):
    one = terminal(slots=slots)
    assert not one.cursor_is_shown(), "a live display hides it"
    # The terminal sends to all; the one process of slots=1 holds a lock, whose tracker heeds SIGHUP.
    os.killpg(one.process.pid, number) if number == signal.SIGINT or slots == 2 else one.process.send_signal(number)
    code, written = one.end()
    assert code == 128 + number and one.cursor_is_shown()
    assert "interrupted" in written and "Traceback" not in written


@pytest.mark.slow
def test_a_closed_terminal_ends_a_run(tmp_path, terminal):
    one = terminal()
    one.close()  # the system sends the SIGHUP
    assert one.process.wait(30) == 129, "what is still said has nowhere to go"
    assert not list((tmp_path / "store" / "work").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_at_once(terminal, first):
    one = terminal(then="hang")
    one.process.send_signal(first)
    one.until(b"interrupted")
    time.sleep(0.3)
    assert one.process.poll() is None, "it waits in an exit handler"
    one.process.send_signal(signal.SIGTERM)  # ignored: an end is under way
    time.sleep(0.3)  # two at once may reach two threads, of which only the main one acts on them
    one.process.send_signal(signal.SIGINT)
    code, written = one.end()
    assert code == 130 and one.cursor_is_shown() and "Traceback" not in written


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) not in before
    with pytest.raises(ValueError), interruptible():
        raise ValueError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Finalised:
    """Is interrupted while it is taken away, where Python drops whatever is raised."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)
        time.sleep(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_end_that_python_drops_comes_all_the_same(number, capsys):
    before = sys.unraisablehook
    with pytest.raises(Interrupted) as caught, interruptible():
        Finalised(number)
        time.sleep(30)
    assert caught.value.signal == number
    assert capsys.readouterr().err == "" and sys.unraisablehook is before
