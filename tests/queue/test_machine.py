import getpass
import json
import platform
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from reproducer.queue import describe_machine, machine
from reproducer.queue.machine import Meter

SIZE = 64 << 20


def test_the_meter_sees_time_and_memory_that_is_free_again():
    with Meter({}) as meter:
        block = bytearray(SIZE)
        block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])  # touch every page
        time.sleep(0.2)
        del block
    assert 0.2 <= meter.seconds < 5
    assert SIZE <= meter.peak_memory_bytes < 2 * SIZE
    seconds = meter.seconds
    time.sleep(0.01)
    assert meter.seconds == seconds


def test_the_meter_goes_on_from_an_earlier_attempt(monkeypatch):
    saved = []
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(machine, "SAVE_SECONDS", 0.01)
    before = {"seconds": 100.0, "peak_host_bytes": SIZE, "peak_cuda_bytes": 7}
    with Meter(before, saved.append) as meter:
        time.sleep(0.1)
    assert 100.1 <= meter.seconds < 105 and meter.peak_memory_bytes >= SIZE + 7
    assert len(saved) > 2 and saved[-1] == meter.spent()
    assert [one["seconds"] for one in saved] == sorted(one["seconds"] for one in saved)


def test_a_stopwatch_that_cannot_save_stops_nothing(monkeypatch):
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(machine, "SAVE_SECONDS", 0.001)

    def full(spent):
        raise OSError("full")

    with Meter({}, full):
        time.sleep(0.02)


@pytest.mark.parametrize("initialized", [True, False])
def test_device_memory_is_asked_of_torch_only_where_it_is_used(monkeypatch, initialized):
    calls = []
    cuda = SimpleNamespace(
        is_initialized=lambda: initialized,
        device_count=lambda: 2,
        reset_peak_memory_stats=lambda device: calls.append(device),
        max_memory_allocated=lambda device: [1000, 234][device],
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with Meter({}) as meter:
        pass
    assert meter.peak_cuda_bytes == (1234 if initialized else 0)
    assert meter.peak_memory_bytes == meter.peak_host_bytes + meter.peak_cuda_bytes
    assert calls == ([0, 1] if initialized else [])


def test_the_machine_is_described_without_names():
    described = describe_machine()
    assert described["python"] == platform.python_version() and described["cpu"] and described["cpu_count"] >= 1
    text = json.dumps(described)
    names = [platform.node(), str(Path.home())] + ([] if getpass.getuser() == "root" else [getpass.getuser()])
    assert not any(name and name in text for name in names)
