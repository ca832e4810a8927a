import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from reproducer.queue import Store

HERE = Path(__file__).parent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Lines that stages of the test have logged so far."""
    path = tmp_path / "log"
    monkeypatch.setenv("QUEUE_LOG", str(path))
    return lambda: path.read_text().splitlines() if path.exists() else []


class Bench:
    """Starts runs in processes of their own and reads what their stages logged."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "store"
        self.go = folder / "go"
        self._log = folder / "log"
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, plan: str, slots: int = 1, held: bool = False, engine: str = "local") -> "subprocess.Popen[str]":
        path = os.pathsep.join([str(HERE), *sys.path])  # the tree that is tested
        environment = dict(os.environ, QUEUE_LOG=str(self._log), QUEUE_GO=str(self.go), PYTHONPATH=path)
        process = subprocess.Popen(
            [sys.executable, str(HERE / "queue_stages.py"), str(self.root), plan, str(slots), engine],
            env=environment,
            text=True,
            stdin=subprocess.PIPE if held else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # what runs the tests may ignore SIGINT, as a shell does for what it puts in the background
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        self._processes.append(process)
        return process

    def finish(self, process: "subprocess.Popen[str]") -> str:
        """Its standard output, after a good end."""
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return output

    def start_together(self, plan: str, count: int) -> "list[subprocess.Popen[str]]":
        processes = [self.start(plan, held=True) for _ in range(count)]
        for process in processes:
            assert process.stdout and process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        return processes

    def log(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, self.log()
            time.sleep(0.01)

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()
