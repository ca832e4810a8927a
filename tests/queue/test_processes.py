"""Runs in processes of their own: killed in the middle, and several at once on one store.

Most take seconds, and are run by `tox -e slow`.
"""

import signal
from collections import Counter

import psutil
import pytest
from queue_stages import PLANS, artifact_of

from reproducer.queue import Store, topological


def test_sigkill_in_a_resumable_stage(bench):
    [end] = PLANS["steps"]()
    counter = end.inputs["a"]
    for attempt in range(2):
        held = bench.log().count("holding")
        killed = bench.start("steps")
        bench.until(lambda held=held: bench.log().count("holding") > held)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        steps = bench.root / "work" / counter.key / "steps.txt"
        assert steps.read_text() == "0\n1\n2\n", attempt
    bench.go.touch()
    output = bench.finish(bench.start("steps"))
    assert "{'done': 2}" in output and "counter: goes on from an attempt that did not finish" in output
    lines = [line for line in bench.log() if line != "holding"]
    assert lines == [
        *("from 0", "step 0", "step 1", "step 2"),
        *("from 3", "from 3", "step 3", "step 4"),
        "write end",
    ]
    artifact = artifact_of(Store(bench.root), counter)
    assert (artifact.directory / "steps.txt").read_text() == "0\n1\n2\n3\n4\n"
    assert artifact.facts == {"began": "once"}, "what was recorded before the kill is kept"
    assert "{'cached': 2}" in bench.finish(bench.start("steps"))


def test_two_processes_share_a_store(bench):
    outputs = [bench.finish(process) for process in bench.start_together("graph", 2)]
    ran = Counter(bench.log())
    labels = [stage.label for stage in topological(PLANS["graph"]())]
    assert ran == Counter(f"write {label}" for label in labels), "each stage ran exactly once in all"
    done = [output.count(": done in ") for output in outputs]
    assert sum(done) == len(labels) and all(done), "and both did some of the work"


@pytest.mark.slow
def test_who_waits_says_for_whom(bench):
    first = bench.start("wait")
    bench.until(lambda: len(bench.log()) == 2)
    second = bench.start("wait")
    line = ""
    while "waiting" not in line:
        line = second.stdout.readline()
        assert line, second.stderr.read()
    assert line.startswith(f"waiting for the long one: process {first.pid}, at it since 2")
    bench.go.touch()
    bench.finish(first)
    rest = bench.finish(second)
    assert "waiting for the long one" not in rest, "it is said once"
    assert "the long one: cached" in rest
    assert len([line for line in bench.log() if line.startswith("wait ")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_outlives_a_run_that_is_ended(bench, slots, how):
    process = bench.start("waits", slots=slots)
    bench.until(lambda: len(bench.log()) == slots)
    at_work = {int(line.rsplit(" ", 1)[1]) for line in bench.log()}
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(at_work) == slots and at_work <= {process.pid, *(worker.pid for worker in workers)}
    process.send_signal(how)
    output, errors = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    work = [path.name for path in (bench.root / "work").iterdir()]
    if how != signal.SIGKILL:
        assert process.returncode == 128 + how and output.endswith("interrupted\n"), errors
        assert not errors, "no traceback, no leaked semaphore"
        assert bench.log().count("broken off") == slots, "each had the time to clean up"
        assert work == [] and not list(bench.root.glob("locks/*.[!l]*"))
    else:
        assert len(work) == slots
    bench.go.touch()
    assert "{'done': 2}" in bench.finish(bench.start("waits"))
    assert not list(bench.root.glob("locks/*.[!l]*")) and not list((bench.root / "work").iterdir())


@pytest.mark.slow
def test_a_stage_that_kills_its_process_is_tried_three_times(bench):
    twice, always = (stage.inputs[name] for stage, name in zip(PLANS["lost"](), "ab", strict=True))
    output = bench.finish(bench.start("lost", slots=2))
    assert "Counter" not in output and "'done': 2" in output and "'failed': 1" in output and "'blocked': 1" in output
    tries = Counter(line.split()[1] for line in bench.log() if line.startswith("lost"))
    assert tries == {"twice": 3, "always": 3}
    store = Store(bench.root)
    assert (artifact_of(store, twice).directory / "out.txt").read_text() == "xxx", "what it had done was kept"
    assert store.failure(always).message.startswith("the process that ran it was killed, 3 times\nthe system does so")
    assert store.failure(always).traceback is None and store.failure(twice) is None


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("how", [None, signal.SIGINT, signal.SIGKILL])
def test_a_stages_own_processes_end_with_it(bench, slots, how):
    process = bench.start("leave", slots=slots)
    bench.until(lambda: len(bench.log()) == 2)
    asleep = [psutil.Process(int(line.split()[1])) for line in bench.log()]
    bench.go.touch() if how is None else process.send_signal(how)
    psutil.wait_procs(asleep, timeout=60)
    assert not any(one.is_running() for one in asleep)
    output, errors = process.communicate(timeout=60)
    assert how == signal.SIGKILL or not errors
    assert how is not None or "failed: left" in output
