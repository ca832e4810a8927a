import contextlib
import io
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from engine_contract import EngineContract, until
from queue_stages import Span, Timed, Wait, artifact_of, kind, text

from reproducer.errors import UserError
from reproducer.queue import ENGINES, Progress, engine_named, fitting_slots, run
from reproducer.queue.engines import local

EXTENSION = Path(__file__).parents[1] / "extension"


class TestEngines(EngineContract):
    @pytest.fixture(params=["local", pytest.param("my_engine:Fresh", marks=pytest.mark.slow)])
    def engine(self, request, monkeypatch):
        monkeypatch.syspath_prepend(EXTENSION)
        made = ENGINES.get(request.param)(2)
        yield made
        made.close()


def test_engines_by_name():
    assert type(ENGINES.get("local")(1)) is local.InProcess and ENGINES.get("local")(3).slots == 3
    with pytest.raises(UserError, match="unknown engine 'locla'\ndid you mean 'local'"):
        ENGINES.get("locla")
    with pytest.raises(UserError, match="cannot be imported"):
        ENGINES.get("no_such_module:engine")
    assert engine_named("local") == (ENGINES.get("local"), {})
    assert engine_named("ray:10.0.0.1:6379") == (ENGINES.get("ray"), {"address": "10.0.0.1:6379"})
    with pytest.raises(UserError, match="the engine 'local' has no address"):
        engine_named("local:10.0.0.1")


def test_a_worker_that_does_not_break_off_is_killed(monkeypatch, log):
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.2)
    engine = local.Processes(1)
    future = engine.submit(_deaf)
    until(log)
    worker = psutil.Process(int(log()[0]))
    engine.close()
    assert not worker.is_running() and isinstance(future.exception(), BrokenExecutor)


def _deaf():
    with open(os.environ["QUEUE_LOG"], "a") as stream:
        stream.write(f"{os.getpid()}\n")
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(600)


def test_the_processor_is_shared(monkeypatch):
    for given, expected in (("6", "3"), ("1", "1"), ("", str(max(1, len(os.sched_getaffinity(0)) // 2)))):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        engine = ENGINES.get("local")(2)
        assert engine.submit(os.getenv, "OMP_NUM_THREADS").result(30) == expected
        engine.close()
    engine = local.Processes(2)  # a stage's own: it shares out what it has itself
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert engine.submit(os.getenv, "OMP_NUM_THREADS").result(30) == "5"
    engine.close()


def test_nothing_goes_on_beside_a_timed_stage(store, log):
    stages = [Span(n=n, label=str(n)) for n in range(3)]
    stages[1:1] = [Timed(n=n, label=f"timed {n}", a=stages[0] if n else None) for n in range(2)]
    outcome = run(stages, store, engine=ENGINES.get("local")(2))
    assert outcome.ok
    lines = log()
    for label in ("timed 0", "timed 1"):
        first = lines.index(f"begin {label}")
        assert lines[first + 1] == f"end {label}"
        begun = [line.split(" ", 1)[1] for line in lines[:first] if line.startswith("begin")]
        assert all(f"end {one}" in lines[:first] for one in begun)
    others = [line for line in lines if "timed" not in line]
    assert others[:2] != ["begin 0", "end 0"] or others[2:4] != ["begin 1", "end 1"], "the others go side by side"


class Recorder:
    """An engine that finishes calls when it is told to."""

    slots = 2

    def __init__(self):
        self.calls = []
        self.closed = False

    def submit(self, function, /, *arguments):
        self.calls.append((Future(), function, arguments))
        return self.calls[-1][0]

    def finish(self, number):
        future, function, arguments = self.calls[number]
        future.set_result(function(*arguments))

    def close(self):
        self.closed = True


def test_slots_have_devices_and_no_more_stages_than_slots_are_handed_out(store):
    engine = Recorder()
    stages = [kind("step")(n=n) for n in range(5)]
    thread = threading.Thread(target=run, args=(stages, store, engine, ["cuda:0", "cuda:1", "cuda:2"]))
    thread.start()
    for finished, handed_out in ((1, 2), (2, 3), (0, 4), (4, 5), (3, 5)):  # calls by number
        until(lambda handed_out=handed_out: len(engine.calls) == handed_out)
        time.sleep(0.15)  # in which no other may come
        assert len(engine.calls) == handed_out
        engine.finish(finished)
    thread.join(30)
    assert not thread.is_alive() and engine.closed
    devices = [arguments[2] for _, _, arguments in engine.calls]
    assert devices == ["cuda:0", "cuda:1", "cuda:1", "cuda:1", "cuda:0"], "of the slot that has become free"


def test_an_artifact_of_another_device_of_the_run_is_good(store):
    step = kind("step", fingerprints=lambda device: {"device": device})
    assert run([step()], store, devices=["cuda:1"]).counts == {"done": 1}
    assert run([step()], store, devices=["cuda:0", "cuda:1"]).counts == {"cached": 1}
    assert run([step()], store, devices=["cuda:0"]).counts == {"done": 1}


def test_a_stage_that_is_lost_again_and_again_is_given_up(store):
    class Losing(Recorder):
        def submit(self, function, /, *arguments):
            future = super().submit(function, *arguments)
            future.set_exception(BrokenExecutor())
            return future

    engine, shown = Losing(), io.StringIO()
    outcome = run([text("a")], store, engine, progress=Progress(shown))
    assert len(engine.calls) == 3 and outcome[text("a")].message.startswith(
        "the process that ran it was killed, 3 times"
    )
    assert shown.getvalue().count("it is tried again") == 2


def test_a_run_waits_for_a_machine_when_none_is_left(store):
    class Leaving(Recorder):
        slots = 0

        def submit(self, function, /, *arguments, memory):
            assert memory == 7
            future = super().submit(function, *arguments)
            self.finish(0)
            return future

    engine, shown = Leaving(), io.StringIO()
    stage = text("a")
    thread = threading.Thread(target=run, args=([stage], store, engine, ["cpu"], Progress(shown)),
                              kwargs={"memory": {stage.key: 7}})  # fmt: skip
    thread.start()
    until(lambda: "no machine is left; the run goes on when one joins" in shown.getvalue())
    engine.slots = 1
    thread.join(30)
    assert not thread.is_alive() and artifact_of(store, stage) and shown.getvalue().count("no machine is left") == 1


def test_a_display_whose_reader_has_gone_ends_the_run(store, tmp_path, monkeypatch):
    monkeypatch.setenv("QUEUE_GO", str(tmp_path / "go"))

    class Gone(Progress):
        def update(self, stage, done, total, text=""):
            (tmp_path / "go").touch()
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run([Wait(), text("a")], store, progress=Gone())


@pytest.mark.parametrize(
    ("cores", "free", "devices", "memory", "slots"),
    [
        (2, 100, ["cpu"], 1, 1),
        (64, 100, ["cpu"], 1, 8),
        (64, 100, ["cpu"], 30, 3),
        (64, 1, ["cpu"], 30, 1),
        (64, 100, ["cuda:0", "cuda:1", "cuda:1"], 30, 2),
    ],
)
def test_slots_that_fit_a_machine(monkeypatch, cores, free, devices, memory, slots):
    monkeypatch.setattr(local, "describe_machine", lambda: {"cpu_count": cores})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free << 30))
    assert fitting_slots(devices, memory << 30) == slots


def test_without_the_extra_nothing_of_it_is_imported_and_the_line_that_installs_it_is_told(tmp_path):
    code = """
import sys
from reproducer.cli import main
from reproducer.errors import UserError
from reproducer.queue import engine_named
assert "ray" not in sys.modules, "listing engines imports none"
sys.modules["ray"] = None
factory, options = engine_named("ray")
try:
    factory(1, **options)
except UserError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "the engine 'ray' needs the package ray" in told and told.endswith("pip install 'reproducer[ray]'\n")
