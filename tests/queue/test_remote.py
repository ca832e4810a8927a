"""Artifacts in an object store, of moto's S3 server in a process of its own. Skipped where moto is not installed."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from queue_stages import PLANS, SPEC, Mistake, kind, text

from reproducer.cli import main
from reproducer.errors import UserError
from reproducer.queue import Progress, Remote, Store, fetch, run, topological
from reproducer.queue import objects as objects_module
from reproducer.queue.artifact import files_digest
from reproducer.queue.attempt import attempt
from reproducer.queue.engines.local import Processes
from reproducer.queue.leases import Leases
from reproducer.queue.objects import Objects
from tests.own_stores import OwnStores
from tests.s3_server import BUCKET, s3_server

pytest.importorskip("moto", reason="moto, whose S3 server the tests start, is not installed")
pytest.importorskip("s3fs", reason="the extra [s3] is not installed")

LEASE = 2.0  # seconds


@pytest.fixture(scope="module")
def s3():
    with s3_server() as found:
        yield found


@pytest.fixture
def url(s3, monkeypatch, tmp_path):
    """A place in the bucket that is empty."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def remote(url):
    return Remote(url, lease=LEASE)


@pytest.fixture
def store_of(tmp_path, remote):
    """The local store of a machine by its name."""
    return lambda name: Store(tmp_path / name, remote)


def run_shown(stages, store, **more):
    shown = io.StringIO()
    return run(stages, store, progress=Progress(shown), **more), shown.getvalue()


def damage(remote, stage, content=b"another"):
    """Replace what the files of a stage's artifact hold."""
    for name in remote.objects.names(f"files/{stage.key}"):
        remote.objects.write(f"files/{stage.key}/{name}", content)


def same(one, other, stages):
    """Whether two stores have the same artifacts."""
    found = [[store.artifact(stage) for stage in topological(stages)] for store in (one, other)]
    assert all(found[0]) and [a.digest for a in found[0]] == [b.digest for b in found[1]]


# what object stores are asked for


@pytest.mark.parametrize("place", ["s3", "memory"])
def test_an_object_is_made_once(place, url, tmp_path):
    objects = Objects(url if place == "s3" else f"memory://{tmp_path.name}/below")
    objects.check()
    assert objects.names("") == [] and objects.read("a/1") is None and objects.read_all([]) == {}
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda number: objects.create("a/1", b"%d" % number), range(4)))
    assert sum(made) == 1 and objects.read("a/1") == b"%d" % made.index(True)
    objects.write("a/b/2", b"two")
    objects.write("ab", b"other")
    assert sorted(objects.names("a")) == ["1", "b/2"] and objects.read_all(["a/b/2", "none"]) == {"a/b/2": b"two"}
    assert objects.download("a/b/2", tmp_path / "two") and (tmp_path / "two").read_bytes() == b"two"
    assert not objects.download("none", tmp_path / "none")
    objects.upload(tmp_path / "two", "a/1")
    objects.remove("a/b/2", "a/b/2")
    assert objects.names("a") == ["1"] and objects.read("a/1") == b"two"


def test_an_answer_that_is_lost_is_no_refusal(url, monkeypatch):
    """The driver tries again by itself, and is told that the object is there: its own."""
    objects = Objects(url)
    pipe = objects._system.pipe_file

    def twice(path, content, mode):
        pipe(path, content, mode=mode)
        pipe(path, content, mode=mode)

    monkeypatch.setattr(objects._system, "pipe_file", twice)
    assert objects.create("a", b"mine") and not objects.create("a", b"another's")


def test_a_store_that_lets_two_make_one_object_is_refused(url, monkeypatch):
    objects = Objects(url)
    pipe = objects._system.pipe_file
    monkeypatch.setattr(objects._system, "pipe_file", lambda path, content, mode="": pipe(path, content))
    with pytest.raises(UserError, match="lets two writers make the same object"):
        objects.check()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("s4://bucket/x", "Protocol not known: s4"),
        ("gs://bucket/x", "driver for gs://bucket/x is not installed: .*gcsfs"),
        ("s3://", "names no bucket"),
        ("file:///folder/x", "is a folder and no object store\nmachines that share a folder take it as their --store"),
        ("/folder/x", "is a folder and no object store"),
    ],
)
def test_what_is_no_object_store(wrong, told):
    with pytest.raises(UserError, match=told):
        Remote(wrong)


def test_failures_of_the_store_are_told_without_secrets(url, store, monkeypatch, tmp_path):
    monkeypatch.setattr(objects_module, "AGAIN_SECONDS", 0.0)
    for wrong in (lambda there: there.read("x"), lambda there: there.names("x"), lambda there: there.write("x", b"")):
        missing = Objects("s3://no-such-bucket/x")
        with pytest.raises(UserError, match="the remote s3://no-such-bucket/x cannot be used: The specified bucket"):
            wrong(missing) or missing.check()
    tries = []

    def refuse(path):
        tries.append(path)
        raise ConnectionError("no route to memory://me:secret@host/x\nand more")

    objects = Objects("memory://me:secret@host/x")
    monkeypatch.setattr(objects._system, "find", refuse)
    with pytest.raises(UserError) as told:
        objects.names("a")
    assert "no route to memory://host/x\n" in str(told.value) and "secret" not in str(told.value) and len(tries) == 2
    broken = Store(tmp_path / "store", Remote(url))
    broken.remote.objects = objects
    with pytest.raises(UserError, match="cannot be used: no route"):
        run([text("a")], broken)


# artifacts


def test_what_one_machine_made_another_takes(store_of, remote, tmp_path):
    here, there, stages = store_of("here"), store_of("there"), PLANS["graph"]()
    assert run(stages, here).counts == {"done": 12}
    outcome, shown = run_shown(stages, there)
    assert outcome.counts == {"cached": 12} and "12 stages: 0 in the store, 12 to do" in shown
    same(here, there, stages)
    assert run(stages, there).counts == {"cached": 12}
    third = store_of("third")
    assert len(fetch(stages, third, remote, "cpu", print)) == 12 and fetch(stages, third, remote, "cpu", print) == []
    same(here, third, stages)
    locks = Counter(name.split("/")[0] for name in remote.objects.names("locks"))
    assert len(locks) == 12 and set(locks.values()) == {1}, "one small object a stage stays"
    assert remote.objects.names("runs") == remote.objects.names("check") == []
    left = [path for name in ("here", "there") for path in (tmp_path / name).glob("work/*")]
    assert left == [], "and nothing is left at work"


def test_what_was_made_without_the_remote_is_shared_later(store_of, remote):
    stages = [text("b", a=text("a"))]
    run(stages, Store(store_of("here").root))
    assert remote.keys() == set()
    assert run(stages, store_of("here")).counts == {"cached": 2}
    assert len(fetch(stages, store_of("there"), remote, None, print)) == 2


def test_a_failure_is_not_shared(store_of, remote):
    stages = [text("after", a=Mistake())]
    for name in ("here", "there"):
        assert run(stages, store_of(name)).counts == {"failed": 1, "blocked": 1}
        assert store_of(name).failure(Mistake()).message.startswith("the pool is too small")
    assert remote.keys() == set()


@pytest.mark.parametrize("content", [b"another", None])
def test_a_damage_is_noticed(store_of, remote, content):
    """By who downloads; it is told, and the stage runs again, under the next number."""
    stages, here, there = [text("b", a=text("a"))], store_of("here"), store_of("there")
    run(stages, here)
    broken = stages[0].inputs["a"]
    name = remote.objects.names(f"files/{broken.key}")[0]
    if content is None:
        remote.objects.remove(f"files/{broken.key}/{name}")
    else:
        damage(remote, broken, content)
    outcome, shown = run_shown(stages, there)
    assert outcome[broken].status == "done" and outcome[stages[0]].status == "cached"
    why = "out.txt is missing" if content is None else "out.txt does not have the recorded SHA-256"
    assert f"a: version 1 at the remote is damaged and is not used: {why}" in shown
    versions = remote.versions([broken])[broken.key]
    assert versions.newest == 3 and list(versions.records) == [3]
    assert len(fetch(stages, store_of("third"), remote, None, print)) == 2
    assert run(stages, here).counts == {"cached": 2}


def test_a_whole_copy_elsewhere_mends_a_damage(store_of, remote, log):
    [stage] = stages = [text("a")]
    run(stages, store_of("here"))
    damage(remote, stage)
    said = []
    assert fetch(stages, store_of("there"), remote, None, said.append) == []
    assert said == ["a: version 1 at the remote is damaged: out.txt does not have the recorded SHA-256"]
    assert run(stages, store_of("here")).counts == {"cached": 1}
    assert run(stages, store_of("there")).counts == {"cached": 1} and log() == ["write a"]
    same(store_of("here"), store_of("there"), stages)


def test_a_damage_in_the_local_store_is_mended_from_the_remote(store_of, log):
    [stage], here = [text("a")], store_of("here")
    path = run([stage], here)[stage].artifact.directory / "out.txt"
    path.write_text("X")
    outcome, shown = run_shown([stage], here)
    assert outcome.counts == {"cached": 1} and path.read_text() == "a" and log() == ["write a"]
    assert "a is fetched or runs again: out.txt was changed or damaged" in shown


def test_a_record_cannot_write_outside_of_the_artifact(store_of, remote, tmp_path):
    [stage], here = [text("a")], store_of("here")
    artifact = run([stage], here)[stage].artifact
    files = {"../../../stolen": artifact.record["files"]["out.txt"]}
    record = {**artifact.record, "files": files, "digest": files_digest(files)}
    remote.objects.write(f"records/{stage.key}/1.json", json.dumps(record).encode())
    outcome, shown = run_shown([stage], store_of("there"))
    assert outcome.counts == {"done": 1} and "'../../../stolen' cannot be a file of an artifact" in shown
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"key": 3, "files": []}'])
def test_a_garbled_record_is_none(store_of, remote, content):
    [stage] = [text("a")]
    remote.objects.write(f"records/{stage.key}/7.json", content)
    assert run([stage], store_of("here")).counts == {"done": 1}
    assert list(remote.versions([stage])[stage.key].records) == [8]


def test_machines_with_other_data_keep_their_own_versions(store_of, remote):
    source = ["one"]
    read = kind("read", lambda c: (c.directory / "out.txt").write_text(source[0]), lambda device: {"file": source[0]})
    stages = [text("end", a=read())]
    seen = []
    for source[0], name in [("one", "a"), ("two", "b"), ("one", "c"), ("two", "d"), ("one", "a"), ("two", "b")]:
        outcome = run(stages, store_of(name))
        seen.append("".join(outcome[stage].status[0] for stage in topological(stages)))
        assert (outcome[stages[0]].artifact.directory / "out.txt").read_text() == f"{source[0]}end"
    assert seen == ["dd", "dd", "cc", "cc", "cc", "cc"]
    assert [remote.versions(stages)[stages[0].key].newest, len(remote.keys())] == [2, 2]


def test_who_is_late_takes_the_others_artifact(store_of, remote):
    """Both have run the stage, whose result is another each time: one counts, everywhere."""
    here, there = store_of("here"), store_of("there")
    first = kind("draw", lambda context: (context.directory / "out.txt").write_text("the first"))()

    def late(context):
        (context.directory / "out.txt").write_text("the late one")
        assert run([first], there).counts == {"done": 1}

    stage = kind("draw", late)()
    here.prepare()
    assert attempt(stage, here.root, "cpu", "a run", {}, url=remote.given, digests={}) == "cached"
    same(here, there, [stage])
    assert (here.artifact(stage).directory / "out.txt").read_text() == "the first"
    [kept] = (here.root / "corrupt").iterdir()
    assert (kept / "out.txt").read_text() == "the late one"


# several machines at once


def start(bench, url, name, plan, lease=60.0, **more):
    return bench.start(plan, root=bench.root / name, QUEUE_REMOTE=url, QUEUE_LEASE=str(lease), **more)


def test_two_machines_share_the_work(bench, url, remote):
    processes = [start(bench, url, name, "graph", held=True) for name in "ab"]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [bench.finish(process) for process in processes]
    stages = PLANS["graph"]()
    assert Counter(bench.log()) == Counter(f"write {one.label}" for one in topological(stages)), "each once in all"
    done = [output.count(": done in ") for output in outputs]
    assert sum(done) == 12 and all(done), "and both did some of the work"
    same(Store(bench.root / "a"), Store(bench.root / "b"), stages)
    assert remote.objects.names("runs") == []


def test_who_waits_takes_over_from_a_killed_machine(bench, url, remote):
    first = start(bench, url, "a", "wait", LEASE)
    bench.until(lambda: len(bench.log()) == 2)
    others = [start(bench, url, name, "wait", LEASE) for name in "bc"]
    for other in others:
        line = ""
        while not line.startswith("waiting for the long one"):  # before it, one may wait for the other to fetch `first`
            line = other.stdout.readline()
            assert line, other.stderr.read()
        assert line.startswith(f"waiting for the long one: process {first.pid}, at it since 2")
    time.sleep(1.25 * LEASE)
    assert len(bench.log()) == 2, "not while it lives"
    first.kill()
    first.wait()
    bench.until(lambda: len(bench.log()) == 3)
    time.sleep(1.25 * LEASE)
    assert len(bench.log()) == 3, "one of the two"
    bench.go.touch()
    outputs = [bench.finish(other) for other in others]
    assert sorted(output.count("the long one: done") for output in outputs) == [0, 1]
    assert Counter(line.split()[0] for line in bench.log()) == {"write": 2, "wait": 2}
    same(Store(bench.root / "b"), Store(bench.root / "c"), PLANS["wait"]())
    assert remote.objects.names("runs") == [], "what the killed one had left too"


@pytest.mark.parametrize("other_is_done", [True, False])
def test_a_paused_machine_publishes_over_nothing(bench, url, remote, other_is_done):
    [after] = PLANS["wait"]()
    paused = start(bench, url, "a", "wait", LEASE)
    bench.until(lambda: len(bench.log()) == 2)
    paused.send_signal(signal.SIGSTOP)
    try:
        other = start(bench, url, "b", "wait", LEASE)
        bench.until(lambda: len(bench.log()) == 3)
        bench.go.touch()
        if other_is_done:
            assert "'done': 2" in bench.finish(other)
            before = remote.objects.read_all(f"records/{name}" for name in remote.objects.names("records"))
    finally:
        paused.send_signal(signal.SIGCONT)
    bench.finish(paused)
    bench.finish(other)
    if other_is_done:
        assert remote.objects.read_all(f"records/{name}" for name in remote.objects.names("records")) == before
    same(Store(bench.root / "a"), Store(bench.root / "b"), [after])
    versions = remote.versions(topological([after]))
    assert {one.newest for one in versions.values()} == {1}


@pytest.mark.parametrize("next_on", ["a", "b"])
def test_a_kill_while_uploading_leaves_nothing_that_counts(bench, url, remote, next_on):
    """What the killed process had made is in its own store still; its machine uploads it, another makes it again."""
    killed = start(bench, url, "a", "three", LEASE, QUEUE_KILL_AFTER="2")
    killed.wait(60)
    [stage] = PLANS["three"]()
    assert killed.returncode == -signal.SIGKILL and len(remote.objects.names(f"files/{stage.key}")) == 2
    stores = {name: Store(bench.root / name, remote) for name in "abc"}
    assert remote.keys() == set() and fetch([stage], stores["c"], remote, None, print) == []
    for name in (next_on, "b" if next_on == "a" else "a"):
        outcome = run([stage], stores[name])
        assert outcome[stage].status == ("done" if name == next_on == "b" else "cached")
    same(stores["a"], stores["b"], [stage])


def test_a_run_that_is_ended_leaves_nobody_waiting(bench, url, remote, monkeypatch):
    process = start(bench, url, "a", "waits", slots=2)
    bench.until(lambda: len(bench.log()) == 2)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive and not errors
    assert remote.objects.names("runs") == [], "others need not wait"
    bench.go.touch()
    monkeypatch.setenv("QUEUE_GO", str(bench.go))
    assert run(PLANS["waits"](), Store(bench.root / "b", remote)).counts == {"done": 2}


def test_workers_without_a_common_folder(store_of, remote, log, tmp_path):
    """Inputs come to where they are needed, results and failures to the run."""
    stages = [*PLANS["graph"](), text("blocked", a=Mistake())]
    run([PLANS["graph"]()[0].inputs["a"]], Store(store_of("here").root))  # made here before, and not shared yet
    outcome = run(stages, store_of("here"), OwnStores(Processes(2), os.getpid))
    assert outcome.counts == {"done": 9, "cached": 3, "failed": 1, "blocked": 1}
    assert store_of("here").failure(Mistake()).message == outcome[Mistake()].message
    assert Counter(log()).most_common(1)[0][1] == 1 and "out.txt" in outcome[stages[0]].artifact.record["files"]
    workers = list(tmp_path.glob("store-of-*/"))
    made = [len(list(worker.glob("write/*"))) for worker in workers]
    assert len(workers) == 2 and all(made) and sum(made) >= 9
    here = run(PLANS["graph"](), Store(tmp_path / "alone"))
    for stage, result in here.results.items():
        assert result.artifact.digest == outcome[stage].artifact.digest


# leases


def test_a_lease_is_one_runs(remote):
    runs = [Leases(remote.objects, f"run {number}", LEASE) for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        taken = list(pool.map(lambda one: one.acquire("key", "cuda:1"), runs))
    assert sum(taken) == 1
    runs.insert(0, runs.pop(taken.index(True)))
    time.sleep(LEASE / 5)
    assert not runs[1].acquire("key") and runs[1].holder("key").device == "cuda:1"
    runs[0].release("key")
    time.sleep(LEASE / 5)
    assert runs[1].acquire("key") and remote.objects.names("locks/key") == ["3.json"]
    assert not runs[0].acquire("key")
    for one in runs:
        one.close()
    assert remote.objects.names("runs") == [] and remote.objects.names("locks/key") == ["4.json"]


def test_a_lease_that_stands_still_is_taken_over_by_one(remote):
    """Who holds it has stopped without a word; who asks for the first time does not believe it yet."""
    dead = Leases(remote.objects, "dead", LEASE)
    assert dead.acquire("key")
    dead._ended.set()
    dead._thread.join()
    takers = [Leases(remote.objects, f"run {number}", LEASE) for number in range(3)]
    began, taken = time.monotonic(), []
    while not taken:
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda one: one.acquire("key"), takers))
        taken = [one for one, answer in zip(takers, answers, strict=True) if answer]
        time.sleep(0.01)
    assert len(taken) == 1 and time.monotonic() - began >= LEASE
    dead.release("key")  # too late: changes nothing
    assert not any(one.acquire("key") for one in [dead, *takers])
    assert sorted(remote.objects.names("locks/key")) == ["2.json"]
    for one in takers:
        one.close()


def test_a_number_that_was_used_is_not_had_again(remote, monkeypatch):
    """Who looked, fell asleep, and creates a number that was there and has been removed, does not hold the stage."""
    slow, quick = (Leases(remote.objects, name, LEASE) for name in ("slow", "quick"))
    look = slow._numbers

    def fall_asleep(key):
        found = look(key)
        monkeypatch.setattr(slow, "_numbers", look)
        assert quick.acquire(key)
        quick.release(key)
        assert quick.acquire(key)
        return found

    monkeypatch.setattr(slow, "_numbers", fall_asleep)
    assert not slow.acquire("key") and "3.json" in remote.objects.names("locks/key")
    for one in (slow, quick):
        one.close()


# commands


def test_a_spec_on_two_machines(url, tmp_path, monkeypatch, capsys):
    def rows(machine):
        found = json.loads((tmp_path / f"out-{machine}/small-run/results.json").read_text())["rows"]
        return [(row["label"], row["status"], row["metrics"], row["stages"]) for row in found]

    def command(machine, *words):
        out = ["--out", f"out-{machine}"] if "status" not in words else []
        assert main([*words, "spec.yaml", "--store", f"store-{machine}", "--remote", url, *out]) == 0
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert f"fetched 0 of 4 stages (0.0 MiB) from {url}" in (shown := command("a", "run")) and "(4 done)" in shown
    status = command("b", "status")
    assert status.count("\nremote ") + status.startswith("remote ") == 4 and not (tmp_path / "store-b").exists()
    assert "fetched 4 of 4 stages" in (shown := command("b", "report")) and "(4 cached)" in shown
    assert rows("a") == rows("b") and len(rows("a")) == 2


def test_without_the_extra_nothing_of_it_is_imported_and_the_line_that_installs_it_is_told():
    code = """
import sys
import reproducer.cli, reproducer.queue
from reproducer.errors import UserError
assert not {"fsspec", "s3fs"} & set(sys.modules) - of_all
sys.modules["s3fs"] = None
try:
    reproducer.queue.Remote("s3://bucket/x")
except UserError as error:
    print(error)
"""
    code = f"import sys, reproducer; of_all = set(sys.modules)\n{code}"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("the driver for s3://bucket/x is not installed") and told.endswith("'reproducer[s3]'\n")
