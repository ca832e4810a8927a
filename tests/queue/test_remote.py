"""Finished artifacts kept at a remote: a folder, a file system in memory, and with `tox -e ray` an S3 server."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from queue_stages import PLANS, SPEC, Mistake, artifact_of, kind, text

from reproducer.cli import main
from reproducer.errors import UserError
from reproducer.queue import Remote, Store, run, topological
from reproducer.queue.artifact import files_digest
from tests.s3_server import BUCKET, s3_server


@pytest.fixture(scope="module")
def s3():
    pytest.importorskip("moto", reason="moto, whose S3 server the tests start, is not installed")
    pytest.importorskip("s3fs", reason="the extra [s3] is not installed")
    with s3_server() as variables:
        yield variables


@pytest.fixture(params=["memory", "file", pytest.param("s3", marks=pytest.mark.slow)])
def remote(request, monkeypatch, tmp_path):
    """An empty one."""
    if request.param == "s3":
        for name, value in request.getfixturevalue("s3").items():
            monkeypatch.setenv(name, value)
    prefix = {"memory": "memory://tests", "file": f"file://{tmp_path}/remote", "s3": f"s3://{BUCKET}"}[request.param]
    return Remote(f"{prefix}/{tmp_path.name}")


@pytest.fixture
def store_of(tmp_path):
    """The local store of a machine by its name."""
    return lambda name: Store(tmp_path / name)


def upload(stages, store, remote):
    """Run stages on a machine that stores what they make, whose statuses are returned."""
    outcome = run(stages, store)
    for result in outcome.results.values():
        if result.artifact:
            remote.store(result.artifact)
    return outcome.counts


def paths(remote, stage, folder="files"):
    """The paths at the remote of what a stage's artifact has there."""
    return [path for path in remote._system.find(f"{remote._root}/{folder}") if stage.key in path]


def test_what_one_machine_made_another_takes(store_of, remote, log):
    here, there, stages = store_of("here"), store_of("there"), PLANS["graph"]()
    assert remote.keys() == set() and remote.fetch(stages, there, "cpu", print) == [] and not there.root.exists()
    assert upload([*stages, text("after", a=Mistake())], here, remote) == {"done": 12, "failed": 1, "blocked": 1}
    assert remote.keys() == {stage.key for stage in topological(stages)}, "a failure is not stored"
    assert len(remote.fetch(stages, there, "cpu", print)) == 12 and len(log()) == 12
    assert remote.fetch(stages, there, "cpu", print) == []
    assert run(stages, there).counts == {"cached": 12}
    assert [artifact_of(store, stages[0]).digest for store in (here, there)] == [
        artifact_of(here, stages[0]).digest
    ] * 2
    assert not list(there.root.glob("work/*"))


def test_of_two_that_store_the_first_counts(store_of, remote):
    artifacts = []
    for name in "abcd":
        stage = kind("draw", lambda context, name=name: (context.directory / "out.txt").write_text(name))()
        artifacts.append(run([stage], store_of(name))[stage].artifact)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(remote.store, artifacts))
    [fetched] = remote.fetch([stage], store_of("other"), None, print)
    remote.store(artifacts[0])
    [again] = remote.fetch([stage], store_of("another"), None, print)
    assert fetched.digest == again.digest and fetched.record in [artifact.record for artifact in artifacts]


@pytest.mark.parametrize("content", [b"another", None])
def test_a_damage_is_noticed_and_mended_by_who_has_a_good_copy(store_of, remote, content):
    stages, here, there = [text("b", a=text("a"))], store_of("here"), store_of("there")
    upload(stages, here, remote)
    broken = stages[0].inputs["a"]
    [path] = paths(remote, broken)
    remote._system.rm_file(path) if content is None else remote._system.pipe_file(path, content)
    said = []
    assert remote.fetch(stages, there, None, said.append) == [] and store_of("there").read(broken) is None
    why = "out.txt is missing" if content is None else "out.txt does not have the recorded SHA-256"
    assert said == [f"a: what the remote has is damaged and is removed there: {why}"]
    assert remote.keys() == {stages[0].key}
    upload(stages, here, remote)
    assert len(remote.fetch(stages, there, None, print)) == 2
    assert not list(there.root.glob("work/*"))


def test_a_damage_in_the_local_store_is_mended_from_the_remote(store_of, remote, log):
    [stage], here = [text("a")], store_of("here")
    upload([stage], here, remote)
    path = artifact_of(here, stage).directory / "out.txt"
    path.write_text("X")
    assert len(remote.fetch([stage], here, "cpu", print)) == 1 and path.read_text() == "a" and log() == ["write a"]
    assert run([stage], here).counts == {"cached": 1}


def test_a_record_cannot_write_outside_of_the_artifact(store_of, remote, tmp_path):
    [stage], here = [text("a")], store_of("here")
    upload([stage], here, remote)
    record = artifact_of(here, stage).record
    files = {"../../../stolen": record["files"]["out.txt"]}
    hostile = {**record, "files": files, "digest": files_digest(files)}
    remote._system.pipe_file(*paths(remote, stage, "records"), json.dumps(hostile).encode())
    said = []
    assert remote.fetch([stage], store_of("there"), None, said.append) == []
    assert "'../../../stolen' cannot be a file of an artifact" in said[0] and not (tmp_path / "stolen").exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"key": 3, "files": []}'])
def test_a_garbled_record_is_replaced(store_of, remote, content):
    [stage] = [text("a")]
    upload([stage], store_of("here"), remote)
    remote._system.pipe_file(*paths(remote, stage, "records"), content)
    assert remote.fetch([stage], store_of("there"), None, print) == []
    upload([stage], store_of("here"), remote)
    assert len(remote.fetch([stage], store_of("there"), None, print)) == 1


def test_what_was_made_of_other_data_is_not_taken(store_of, remote):
    source = ["one"]
    read = kind("read", lambda c: (c.directory / "out.txt").write_text(source[0]), lambda device: {"file": source[0]})
    stages = [text("end", a=read())]
    upload(stages, store_of("here"), remote)
    source[0] = "two"
    assert remote.fetch(stages, store_of("there"), "cpu", print) == []
    upload(stages, store_of("there"), remote)
    [_, last] = remote.fetch(stages, store_of("report"), None, print)
    assert (last.directory / "out.txt").read_text() == "oneend", "of two versions the first stays"
    assert remote.fetch(stages, store_of("there"), "cpu", print) == [], "and nobody else's is replaced"


def test_a_stage_that_another_run_is_at_is_left_to_it(store_of, remote):
    [stage], there = [text("a")], store_of("there")
    upload([stage], store_of("here"), remote)
    there.prepare()
    with there.lock(stage) as lock:
        assert lock.acquire() and remote.fetch([stage], there, None, print) == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s4://bucket/x", "Protocol not known: s4"),
        ("gs://bucket/x", "driver for gs://bucket/x is not installed: .*gcsfs"),
        ("memory://", "names no bucket"),
    ],
)
def test_what_is_no_remote(url, why):
    with pytest.raises(UserError, match=why):
        Remote(url)


def test_errors_of_the_remote_come_without_secrets(monkeypatch, store):
    def refuse(path):
        raise ConnectionError("no route to memory://me:secret@host/x\nand more")

    remote = Remote("memory://me:secret@host/x")
    monkeypatch.setattr(remote._system, "find", refuse)
    with pytest.raises(UserError) as error:
        remote.fetch([text("a")], store, None, print)
    assert "the remote memory://host/x cannot be used: no route to memory://host/x\n" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_run_and_a_report_by_the_remote(tmp_path, monkeypatch, capsys):
    """What a run makes is stored; another machine fetches it, reports, and needs not run anything."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)

    def command(name, command="run", *options):
        folders = ["--store", f"store-{name}", "--remote", str(tmp_path / "remote"), *options]
        folders += [] if command == "status" else ["--out", f"out-{name}"]
        assert main([command, "spec.yaml", *folders]) == 0
        return capsys.readouterr().out

    assert "(4 done)" in command("a")
    assert command("b", "status").count("remote") >= 4 and not (tmp_path / "store-b").exists()
    shown = command("b", "report")
    assert "fetched 4 of 4 stages" in shown and "(4 cached)" in shown
    rows = [json.loads((tmp_path / f"out-{name}/small-run/results.json").read_text())["rows"] for name in "ab"]
    assert rows[0] == rows[1] and len(rows[0]) == 2
    # what a run without the remote has made is stored by the next one with it
    for path in (tmp_path / "remote/records").iterdir():
        path.unlink()
    assert "(4 cached)" in command("a") and len(list((tmp_path / "remote/records").iterdir())) == 4


def test_a_remote_that_refuses_does_not_end_a_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "spec.yaml").write_text(SPEC)

    def refuse(self, artifact):
        raise UserError("the remote cannot be used: it is full")

    monkeypatch.setattr(Remote, "store", refuse)
    options = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"), "--remote", str(tmp_path / "remote")]
    assert main(["run", str(tmp_path / "spec.yaml"), *options]) == 0
    shown = capsys.readouterr().out
    assert shown.count("not stored at the remote: the remote cannot be used: it is full") == 4 and "(4 done)" in shown


def test_without_the_extra_nothing_of_it_is_imported_and_the_line_that_installs_it_is_told():
    code = """
import sys, reproducer
before = set(sys.modules)
import reproducer.cli, reproducer.queue
from reproducer.errors import UserError
assert not {"fsspec", "s3fs"} & set(sys.modules) - before
sys.modules["s3fs"] = None
try:
    reproducer.queue.Remote("s3://bucket/x")
except UserError as error:
    print(error)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("the driver for s3://bucket/x is not installed")
    assert printed.endswith("'reproducer[s3]'\n")
