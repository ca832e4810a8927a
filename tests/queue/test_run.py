import errno
import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from queue_stages import Crash, Mistake, artifact_of, kind, text

from reproducer.errors import UserError
from reproducer.queue import Progress, Store, run, survey
from reproducer.queue import artifact as artifact_module
from reproducer.queue import store as store_module
from reproducer.queue.hashes import LARGE


class Lines(Progress):
    """A display that keeps what it would show."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def show(self, text):
        self.lines.append(text)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The lines that the stages have logged; called, it returns and forgets them."""
    path = tmp_path / "log"
    monkeypatch.setenv("QUEUE_LOG", str(path))

    def take():
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    return take


def chain():
    first = text("a")
    return [text("c", a=text("b", a=first)), text("other")]


def statuses(outcome):
    return {result.stage.label: result.status for result in outcome.results.values()}


def test_runs_in_order_and_only_once(store, log):
    outcome = run(chain(), store)
    assert statuses(outcome) == {"a": "done", "b": "done", "c": "done", "other": "done"} and outcome.ok
    assert log() == ["write a", "write b", "write c", "write other"]
    assert (outcome[chain()[0]].artifact.directory / "out.txt").read_text() == "abc"

    again = run(chain(), Store(store.root))
    assert set(statuses(again).values()) == {"cached"} and log() == []
    for stage in chain():
        assert again[stage].artifact.record == outcome[stage.key].artifact.record
        assert again[stage].seconds == outcome[stage].seconds > 0
        assert artifact_of(store, stage) == again[stage].artifact


def test_only_what_depends_on_a_change_runs_again(store, log):
    run(chain(), store)
    log()
    changed = [text("c", a=text("B", a=text("a"))), text("other")]
    assert statuses(run(changed, store)) == {"a": "cached", "B": "done", "c": "done", "other": "cached"}
    assert log() == ["write B", "write c"]


def test_the_record(store):
    def work(context):
        context.record("loss", [1.5, {"last": 2}])
        (context.directory / "sub").mkdir()
        (context.directory / "sub" / "x.bin").write_bytes(b"\0" * 10)

    job = kind("job", work, lambda device: {"file": f"digest for {device}"}, version=3)
    stage = job(n=1, a=text("a"), label="the label")
    artifact = run([stage], store, devices=["cpu:7"], environment={"packages": {"torch": "2"}})[stage].artifact
    record = json.loads((artifact.directory / "record.json").read_text())
    assert record == artifact.record
    assert {name: record[name] for name in ("key", "kind", "version", "params", "label")} == {
        "key": stage.key,
        "kind": "job",
        "version": 3,
        "params": {"n": 1},
        "label": "the label",
    }
    assert list(record["files"]) == ["sub/x.bin"]
    assert record["inputs"] == {"a": {"key": text("a").key, "digest": artifact_of(store, text("a")).digest}}
    assert record["fingerprints"] == {"file": "digest for cpu:7"}
    assert artifact.facts == {"loss": [1.5, {"last": 2}]}
    assert record["environment"]["packages"] == {"torch": "2"}
    assert {"python", "platform", "cpu", "cpu_count"} <= record["environment"].keys()


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        (Mistake, "the pool is too small\nask for fewer samples"),
        (Crash, "ZeroDivisionError: a bug (traceback in failed/{key}.json)"),
    ],
)
def test_a_failure_blocks_what_needs_it_and_nothing_else(store, log, failing, message):
    name = failing.kind
    bad = failing(a=text("a"))
    after = text("after", b=bad)
    last = text("last", c=after, a=text("a"))
    display = Lines()
    outcome = run([last, text("b")], store, progress=display)
    message = message.format(key=bad.key)
    assert statuses(outcome) == {"a": "done", name: "failed", "after": "blocked", "last": "blocked", "b": "done"}
    assert not outcome.ok and outcome.counts == {"done": 2, "failed": 1, "blocked": 2}
    assert outcome[bad].message == message and outcome[bad].artifact is None and outcome[bad].seconds is None
    assert outcome[after].message == outcome[last].message == f"needs '{name}', which failed"
    assert any(line.endswith(f"{name}: failed: " + message.replace("\n", "\n    ")) for line in display.lines)
    assert not any("Traceback" in line or "second line" in line for line in display.lines)

    failure = store.failure(bad)
    assert failure.message == message
    assert (failure.traceback is None) == (failing is Mistake)
    assert failing is Mistake or "ZeroDivisionError: a bug\nwith a second line" in failure.traceback
    assert list((store.root / "work").iterdir()) == []
    assert statuses(survey([last, text("b")], store)) == {
        "a": "cached",
        name: "failed",
        "after": "blocked",
        "last": "blocked",
        "b": "cached",
    }


def test_programming_mistakes_come_before_any_work(store, log):
    with pytest.raises(TypeError, match=r"environment\.torch"):
        run([text("a")], store, environment={"torch": object()})
    assert log() == []


# an artifact that cannot be trusted any more


def damage(how, folder):
    if how == "truncated record":
        record = folder / "record.json"
        record.write_text(record.read_text()[:100])
    elif how == "another file list":
        record = json.loads((folder / "record.json").read_text())
        (folder / "record.json").write_text(json.dumps({**record, "files": {}}))
    elif how == "no record":
        (folder / "record.json").unlink()
    elif how == "missing file":
        (folder / "out.txt").unlink()
    elif how == "changed byte":
        (folder / "out.txt").write_text("X")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("truncated record", "record.json is missing or damaged"),
        ("another file list", "record.json is missing or damaged"),
        ("no record", "record.json is missing or damaged"),
        ("missing file", "out.txt cannot be read (No such file or directory)"),
        ("changed byte", "out.txt was changed or damaged"),
    ],
)
def test_a_damaged_artifact_is_set_aside_and_made_again(store, log, how, said):
    run(chain(), store)
    log()
    a = text("a")
    for number in (1, 2):
        damage(how, store.root / "write" / a.key)
        assert artifact_of(store, a) is None and artifact_of(store, chain()[0]) is None
        assert artifact_of(store, text("other")) is not None
        display = Lines()
        outcome = run(chain(), Store(store.root), progress=display)
        # What is downstream is kept: the new content is the old one.
        assert statuses(outcome) == {"a": "done", "b": "cached", "c": "cached", "other": "cached"}
        assert log() == ["write a"]
        kept = f"corrupt/{a.key}-{number}"
        [line] = [line for line in display.lines if "corrupt" in line]
        assert line.startswith(f"a runs again: {said}") and line.endswith(f"(what was there is kept in {kept})")
        assert (store.root / kept).is_dir()


def test_a_changed_byte_in_a_large_file_is_seen_by_its_mtime(store, log):
    stage = kind("big", lambda context: (context.directory / "x").write_bytes(b"0" * LARGE))()
    path = run([stage], store)[stage].artifact.directory / "x"
    status = path.stat()
    path.write_bytes(b"0" * (LARGE - 1) + b"1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert run([stage], store)[stage].status == "done"
    path.write_bytes(b"0" * (LARGE + 1))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run([stage], store)[stage].status == "done"


def test_a_result_that_differs_makes_what_depends_on_it_stale(store, log):
    values = {"first": "1"}
    draw = kind("draw", lambda context: (context.directory / "out.txt").write_text(values["first"]))(label="the draw")
    stages = [text("end", a=text("middle", a=draw)), text("other")]
    run(stages, store)
    values["first"] = "2"
    damage("missing file", store.root / "draw" / draw.key)
    (store.root / "draw" / draw.key / "record.json").unlink()
    display = Lines()
    outcome = run(stages, store, progress=display)
    assert statuses(outcome) == {"the draw": "done", "middle": "done", "end": "done", "other": "cached"}
    assert any(line.startswith("middle runs again: its input 'a' (the draw) has changed") for line in display.lines)
    assert (outcome[stages[0]].artifact.directory / "out.txt").read_text() == "2middleend"


def test_an_input_that_another_run_has_made_anew_fails_what_needs_it_until_the_next_run(store, log):
    values = {"first": "1"}
    draw = kind("draw", lambda context: (context.directory / "out.txt").write_text(values["first"]))(label="the draw")
    stages = [text("end", a=text("middle", a=draw)), text("other")]

    def settled(stage, results):
        if stage.label == "the draw" and values["first"] == "1":
            values["first"] = "2"
            (store.root / "draw" / draw.key / "record.json").unlink()
            run([draw], Store(store.root))

    outcome = run(stages, store, settled=settled)
    assert statuses(outcome) == {"the draw": "done", "middle": "failed", "end": "blocked", "other": "done"}
    assert "is another in the store than this run has found or made" in outcome[stages[0].inputs["a"]].message
    again = run(stages, store)
    assert again.ok and (again[stages[0]].artifact.directory / "out.txt").read_text() == "2middleend"


# sources outside the store


@pytest.fixture
def reader(tmp_path):
    """(stages, files): a stage that reads the first words of two files, and what depends on it."""
    files = {name: tmp_path / name for name in ("one", "two")}
    for name, path in files.items():
        path.write_text(f"{name} rest")

    def read(context):
        words = [path.read_text().split()[0] for path in files.values()]
        (context.directory / "out.txt").write_text(" ".join(words))

    def fingerprints(device):
        try:
            return {f"the file {name}": path.read_text() for name, path in files.items()}
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is gone") from error

    return [text("end", a=kind("read", read, fingerprints)())], files


def test_a_changed_source_makes_a_stage_stale(reader, store, log):
    stages, files = reader
    assert statuses(run(stages, store)) == {"read": "done", "end": "done"}
    assert statuses(run(stages, store)) == {"read": "cached", "end": "cached"}

    files["two"].write_text("zwei rest")
    assert statuses(survey(stages, store, "cpu")) == {"read": "missing", "end": "missing"}
    display = Lines()
    outcome = run(stages, store, progress=display)
    assert statuses(outcome) == {"read": "done", "end": "done"}
    [line] = [line for line in display.lines if line.startswith("read runs again")]
    assert "what it read has changed since: the file two (" in line and "\n" not in line
    assert (outcome[stages[0]].artifact.directory / "out.txt").read_text() == "one zweiend"

    files["two"].write_text("zwei other rest")  # what the stage makes of it stays the same
    assert statuses(run(stages, store)) == {"read": "done", "end": "cached"}


def test_a_source_that_is_gone_fails_the_stage(reader, store, log):
    stages, files = reader
    run(stages, store)
    files["one"].unlink()
    outcome = run(stages, store)
    assert statuses(outcome) == {"read": "failed", "end": "blocked"}
    assert statuses(survey(stages, store, "cpu")) == {"read": "failed", "end": "blocked"}
    assert outcome.results[stages[0].inputs["a"].key].message == f"{files['one']} is gone"
    files["one"].write_text("one rest")
    assert statuses(run(stages, store)) == {"read": "cached", "end": "cached"}


# a disk that is full, a store that cannot be used


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def wrapped(*_args, **_kwargs):
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("where", "resumable"),
    [("stage", False), ("library", True), ("handled", False), ("record", True), ("rename", False), ("notes", True)],
)
def test_a_full_disk_ends_the_run_with_one_message(store, log, monkeypatch, where, resumable):
    def work(context):
        (context.directory / "out.txt").write_text("half")
        if where in ("stage", "library", "handled") and broken:
            try:
                wrapped() if where == "library" else full()
            except OSError:
                if where == "handled":
                    raise ValueError("could not save")  # noqa: B904 (as libraries do)
                raise

    broken = True
    fill = kind("fill", work, resumable=resumable)()
    stages = [text("before"), text("end", a=fill), text("later")]
    with monkeypatch.context() as patch:
        write_json = store_module.write_json
        if where == "record":
            patch.setattr(
                store_module,
                "write_json",
                lambda path, value, **more: full() if value.get("kind") == "fill" else write_json(path, value, **more),
            )
        elif where == "notes":
            patch.setattr(artifact_module, "write_json", full)
        elif where == "rename":
            rename = Path.rename
            patch.setattr(Path, "rename", lambda path, to: full() if path.name == fill.key else rename(path, to))
        with pytest.raises(
            UserError, match=r"the disk is full: 'fill' could not write .*\n.*what was finished is kept"
        ):
            run(stages, store)
    assert [path.parent.name for path in store.root.glob("*/*/record.json")] != ["fill"]
    assert artifact_of(store, fill) is None and artifact_of(store, text("before")) is not None
    assert not (store.root / "fill" / fill.key).exists()
    assert not list(store.root.glob("**/.*")), "nothing is left partly written"
    broken = False
    assert statuses(run(stages, store)) == {
        "before": "cached",
        "fill": "cached" if where == "rename" else "done",  # it had been finished
        "end": "done",
        "later": "done",
    }


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("file", "it is a file"),
        ("file/below/it", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("x/" * 1900, "File name too long"),  # itself no longer than a path may be, but what is made in it is
        ("a\0b", "embedded null byte"),
        ("a\ud800b", "surrogates not allowed"),
        ("~nobody-of-that-name/store", "home directory"),
    ],
)
def test_a_path_that_cannot_be_a_store(tmp_path, path, why):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"^the store .* cannot be a folder: .*{why}.*\nname a folder") as error:
        Store(path if path.startswith("~") else f"{tmp_path}/{path}")
    assert len(str(error.value)) < 500
    str(error.value).encode()  # can be printed


def test_a_store_that_cannot_be_written(tmp_path, monkeypatch, log):
    store = Store(tmp_path / "store")
    run([text("a")], store)

    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(store_module.tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"store cannot be written \(Permission denied\)"):
        run([text("a"), text("b")], store)
    assert statuses(run([text("a")], store)) == {"a": "cached"}, "reading is enough for what is there"


def test_an_error_of_the_store_itself_is_not_the_stages_failure(store, log, monkeypatch):
    monkeypatch.setattr(Store, "begin", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no", "file")))
    with pytest.raises(UserError, match=r"the store .* cannot be used: .*no"):
        run([text("a")], store)


def test_each_stage_that_a_run_settles_is_told_with_what_is_known_by_then(store, log):
    stages = chain()
    run([stages[1]], store)
    told = []

    def settled(stage, results):
        told.append((stage.label, {result.stage.label: result.status for result in results.values()}))

    run(stages, store, settled=settled)
    assert [label for label, _ in told] == ["a", "b", "c"], "what was in the store is not settled by this run"
    assert told[1][1] == {"other": "cached", "a": "done", "b": "done"}


# interruption, and going on after it


def interrupting(context):
    path = context.directory / "steps"
    steps = path.read_text() if path.exists() else ""
    path.write_text(steps + "x")
    context.record(f"attempt {len(steps)}", len(steps))
    time.sleep(0.05)
    if len(steps) < 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize("resumable", [True, False])
def test_keyboard_interrupt(store, log, resumable):
    stop = kind("stop", interrupting, resumable=resumable)(a=text("a"))
    closed = []
    display = Lines()
    display.close = lambda: closed.append(True)
    for attempt in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run([stop, text("b")], store, progress=display)
        assert log() == (["write a"] if attempt == 1 else []), "finished work is kept"
        assert len(closed) == attempt
        with store.lock(stop) as lock:
            assert lock.acquire(), "the lock was released"
        assert (store.root / "work" / stop.key).exists() == resumable
        assert store.failure(stop) is None
    if resumable:
        artifact = run([stop], store)[stop].artifact
        assert (artifact.directory / "steps").read_text() == "xxx"
        assert artifact.facts == {"attempt 0": 0, "attempt 1": 1, "attempt 2": 2}
        assert artifact.seconds > 0.15, "earlier attempts count"
        assert list(store.root.glob("work/*")) == []


def test_a_resumable_stage_starts_afresh_when_its_input_or_source_has_changed(store, log):
    state = {"source": "1", "input": "1"}
    source = kind("in", lambda c: (c.directory / "x").write_text(state["input"]), lambda device: {"i": state["input"]})
    stop = kind("stop", interrupting, lambda device: {"source": state["source"]}, resumable=True)(a=source())
    steps = store.root / "work" / stop.key / "steps"
    for name in (None, "source", "input"):
        if name:
            state[name] = "2"
        with pytest.raises(KeyboardInterrupt):
            run([stop], store)
        assert steps.read_text() == "x"
    with pytest.raises(KeyboardInterrupt):
        run([stop], store)
    assert steps.read_text() == "xx"


@pytest.mark.parametrize(("notes", "resumable"), [(None, True), ("[]", True), ('{"basis": {}}', True), ("", False)])
def test_a_work_folder_of_unknown_origin_is_emptied(store, notes, resumable):
    def work(context):
        assert list(context.directory.iterdir()) == []

    stage = kind("k", work, resumable=resumable)()
    store.prepare()
    left = store.root / "work" / stage.key
    left.mkdir()
    (left / "half").write_text("half")
    if notes is not None:
        left.with_name(f"{stage.key}.json").write_text(notes)
    assert run([stage], store)[stage].status == "done"
    assert list((store.root / "work").iterdir()) == []


def test_a_commit_interrupted_before_its_rename_is_finished(store, log):
    a = text("a")
    folder = run([a], store)[a].artifact.directory
    folder.rename(store.root / "work" / a.key)
    log()
    assert run([a], store)[a].status == "cached" and log() == []
    folder.rename(store.root / "work" / a.key)
    (store.root / "work" / a.key / "out.txt").write_text("X")  # not what was recorded
    assert run([a], store)[a].status == "done" and log() == ["write a"]


@pytest.mark.parametrize("name", ["record.json", "link"])
def test_what_cannot_be_an_artifact_fails_the_stage(store, name):
    def work(context):
        (context.directory / "out").write_text("x")
        if name == "link":
            (context.directory / name).symlink_to("out")
        else:
            (context.directory / name).write_text("{}")

    stage = kind("k", work)()
    for _ in range(2):
        result = run([stage], store)[stage]
        assert result.status == "failed" and name in result.message


# speed


def test_cached_stages_take_no_time(store, monkeypatch):
    large = kind("large", lambda context: (context.directory / "large").write_bytes(b"0" * LARGE))
    small = kind("small", lambda context: (context.directory / "small").write_text("0"))
    inputs = [large(n=n) for n in range(20)]
    stages = inputs + [small(n=n, a=inputs[n % 20]) for n in range(80)]
    run(stages, store)
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, name: hashed.append(Path(file.name).name) or digest(file, name)
    )
    start = time.process_time()
    outcome = run(stages, Store(store.root))
    seconds = time.process_time() - start
    assert outcome.counts == {"cached": 100}
    assert hashed == ["small"] * 80, "large files are not read again"
    assert seconds < 0.3, seconds
