"""Runs in processes of their own: killed in the middle, and several at once on one store."""

import signal
import subprocess
import sys
from collections import Counter

import psutil
from queue_handlers import PLANS

from reproducer.queue import Store, survey, topological


def test_sigkill_in_a_stage_that_cannot_resume(bench):
    [after] = PLANS["wait"]()
    killed = bench.start("wait")
    bench.until(lambda: len(bench.log()) == 2)
    store = Store(bench.root)
    partial = bench.root / "work" / after.inputs["before"].key / "partial"
    bench.until(partial.exists)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert partial.exists() and store.artifact(after.inputs["before"]) is None

    bench.go.touch()
    output = bench.finish(bench.start("wait"))
    assert "{'cached': 1, 'done': 2}" in output
    assert [line.rsplit(" ", 1)[0] for line in bench.log()] == [
        "write",
        "wait the long one []",
        "wait the long one []",  # the folder was empty again
        "write",
    ]
    assert (store.artifact(after).directory / "out.txt").read_text() == "halfafter"
    assert list((bench.root / "work").iterdir()) == []


def test_sigkill_in_a_resumable_stage(bench):
    [end] = PLANS["count"]()
    counter = end.inputs["counted"]
    for attempt in range(3):
        held = bench.log().count("holding")
        killed = bench.start("count")
        bench.until(lambda held=held: bench.log().count("holding") > held)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        steps = bench.root / "work" / counter.key / "steps.txt"
        assert steps.read_text() == "0\n1\n2\n", attempt
    bench.go.touch()
    output = bench.finish(bench.start("count"))
    assert "{'done': 2}" in output and "counter: goes on from an attempt that did not finish" in output
    lines = [line for line in bench.log() if line != "holding"]
    assert lines == [
        *("count from 0", "step 0", "step 1", "step 2"),
        *("count from 3", "count from 3", "count from 3", "step 3", "step 4"),
        "write end",
    ]
    artifact = Store(bench.root).artifact(counter)
    assert (artifact.directory / "steps.txt").read_text() == "0\n1\n2\n3\n4\n"
    assert artifact.facts == {"began": "once"}, "what was recorded before the kill is kept"
    assert "{'cached': 2}" in bench.finish(bench.start("count"))


def test_two_processes_share_a_store(bench):
    outputs = [bench.finish(process) for process in bench.start_together("graph", 2)]
    ran = Counter(bench.log())
    labels = [stage.label for stage in topological(PLANS["graph"]())]
    assert ran == Counter(f"write {label}" for label in labels), "each stage ran exactly once in all"
    done = [output.count(": done in ") for output in outputs]
    assert sum(done) == len(labels) and all(done), "and both did some of the work"


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
    assert "waiting" not in rest, "it is said once"
    assert "the long one: cached" in rest
    assert len([line for line in bench.log() if line.startswith("wait ")]) == 1


def test_who_waits_takes_over_from_the_dead(bench):
    first = bench.start("wait")
    bench.until(lambda: len(bench.log()) == 2)
    second = bench.start("wait")
    while "waiting" not in second.stdout.readline():
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    bench.go.touch()
    assert "the long one: done" in bench.finish(second)


def test_jobs_share_the_work(bench):
    output = bench.finish(bench.start("graph", jobs=3))
    ran = Counter(bench.log())
    assert len(ran) == 12 and set(ran.values()) == {1}
    assert output.count(": done in ") == output.count(": started") == 12, "each is shown once, whoever ran it"
    assert "{'done': 12}" in output
    outcome = survey(PLANS["graph"](), Store(bench.root))
    assert outcome.ok and len({result.artifact.record["run"] for result in outcome.results.values()}) == 1
    again = bench.finish(bench.start("graph", jobs=3))
    assert "12 stages: 12 in the store, 0 to do" in again and "{'cached': 12}" in again


def test_jobs_run_side_by_side_and_end_with_their_run(bench):
    for how in (signal.SIGKILL, signal.SIGINT):
        before = len(bench.log())
        process = bench.start("waits", jobs=2)
        bench.until(lambda before=before: len(bench.log()) == before + 2)
        at_work = {int(line.rsplit(" ", 1)[1]) for line in bench.log()[before:]}
        assert len(at_work) == 2 and process.pid in at_work
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        process.wait(timeout=60)
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive
    assert process.returncode != 0 and "KeyboardInterrupt" in process.communicate()[1]
    bench.go.touch()
    assert "{'done': 2}" in bench.finish(bench.start("waits", jobs=2))


def test_workers_give_back_what_they_hold(bench):
    process = bench.start("waits", jobs=2)
    bench.until(lambda: len(bench.log()) == 2)
    bench.go.touch()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "leaked" not in errors, errors


def test_clean(bench):
    store = Store(bench.root)
    assert store.clean([]) == {} and not bench.root.exists()
    bench.go.touch()
    bench.finish(bench.start("graph"))
    bench.finish(bench.start("count"))
    bench.go.unlink()
    bench.start("wait")
    bench.until(lambda: any(line.startswith("wait ") for line in bench.log()))
    [after] = PLANS["wait"]()
    running, read = after.inputs["before"], after.inputs["before"].inputs["first"]
    [end] = PLANS["count"]()
    damaged = store.artifact(PLANS["graph"]()[0]).directory
    size = sum(path.stat().st_size for path in damaged.iterdir())
    store.discard(PLANS["graph"]()[0])
    foreign = bench.root / "write" / "notes of mine"
    foreign.mkdir()

    removed = store.clean({end.key, end.inputs["counted"].key})
    assert removed.pop(f"corrupt/{PLANS['graph']()[0].key}-1") == size > 0
    assert {path.split("/")[0] for path in removed} == {"write"} and len(removed) == 11
    assert store.artifact(end) is not None, "needed"
    assert store.artifact(read) is not None, "read by the stage that runs"
    assert (bench.root / "work" / running.key / "partial").exists(), "the stage that runs"
    assert foreign.exists(), "not a stage's"
    assert list((bench.root / "corrupt").iterdir()) == []
    bench.go.touch()


def test_importing_the_queue_is_light():
    code = "import sys, reproducer.queue; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "transformers", "rich"} & set(modules)
    rooms = {name.split(".")[1] for name in modules if name.startswith("reproducer.")}
    assert rooms == {"queue", "errors"}, "it needs no other room"
