"""What every engine does, whatever it runs on: a file of tests of an engine has a class of these."""

import os
import signal
import time
from concurrent.futures import BrokenExecutor

import psutil
import pytest
from queue_stages import Lost, Wait, graph, sleep_long, square

from reproducer.queue import Progress, Store, run
from reproducer.queue.engines.local import GRACE_SECONDS


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class EngineContract:
    """Of an engine of two slots, the fixture `engine`."""

    seconds = GRACE_SECONDS  # in which closing breaks off a call that sleeps

    def test_calls_and_their_errors_come_back(self, engine):
        futures = [engine.submit(square, value) for value in range(5)]
        assert engine.slots == 2 and [future.result()[0] for future in futures] == [0, 1, 4, 9, 16]
        assert os.getpid() not in {future.result()[1] for future in futures}
        with pytest.raises(TypeError, match="unsupported operand"):
            engine.submit(square, "x").result()
        engine.close()
        engine.close()

    def test_a_lost_worker_loses_its_own_call_only(self, engine, log):
        lost, waits = engine.submit(sleep_long, 1), []
        until(lambda: log())
        pid = int(log()[0].split()[1])
        waits = [engine.submit(square, value) for value in range(3)]
        assert [future.result(30)[0] for future in waits] == [0, 1, 4]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BrokenExecutor):
            lost.result(30)
        assert [engine.submit(square, value).result(30)[0] for value in range(4)] == [0, 1, 4, 9]

    def test_closing_breaks_off(self, engine, log):
        futures = [engine.submit(sleep_long, number) for number in range(3)]
        until(lambda: len(log()) == 2)
        workers = [psutil.Process(int(line.split()[1])) for line in log()]
        start = time.monotonic()
        engine.close()
        assert time.monotonic() - start < self.seconds
        until(lambda: not any(worker.is_running() for worker in workers))
        assert all(isinstance(future.exception(5), BrokenExecutor) for future in futures[:2])
        assert futures[2].cancelled() or isinstance(futures[2].exception(5), BrokenExecutor)

    def test_a_run_by_the_engines_name(self, engine, store, log):
        def read(outcome, stage):
            return (outcome[stage].artifact.directory / "out.txt").read_text()

        lost = Lost(times=1)
        outcome = run([*graph(), lost], store, engine)
        assert outcome.counts == {"done": 13} and len(log()) == 14
        here = run(graph(), Store(store.root.with_name("here")))
        assert read(outcome, graph()[0]) == read(here, graph()[0]) and read(outcome, lost) == "xx"
        assert run(graph(), store).counts == {"cached": 12}
        assert not list(store.root.glob("locks/*.[!l]*")), "no note, no log is left"

    def test_what_a_stage_tells_reaches_the_display_from_another_process(self, engine, store, tmp_path, monkeypatch):
        monkeypatch.setenv("QUEUE_GO", str(tmp_path / "go"))
        seen = []

        class Display(Progress):
            def update(self, stage, done, total, text=""):
                seen.append((stage.label, done, total, text))
                (tmp_path / "go").touch()

            def show(self, text):
                seen.append(text)

        run([Wait(label="the long one")], store, engine, progress=Display())
        assert ("the long one", 1.0, 4.0, "half asleep") in seen
        assert seen.index("[1/1] the long one: started") < len(seen) - 1
