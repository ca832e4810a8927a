"""What a store keeps and what it throws away, without other processes."""

import subprocess
import sys

from queue_stages import PLANS, Steps, artifact_of, kind, text

from reproducer.queue import Store, run


def test_what_killed_processes_left_is_swept(store):
    store.prepare()
    left, held, resumable = (text(name) for name in "abc")
    work, locks = store.root / "work", store.root / "locks"
    for key in (left.key, held.key, resumable.key):
        (work / f".{key}.record.123").write_text("{")
        (locks / f".{key}.json.123").write_text("{")
        (locks / f"{key}.json").write_text("{}")
        (work / key).mkdir()
    for folder in ("failed", "verified"):
        (store.root / folder / f".{left.key}.json.123").write_text("{")
    (work / f"{resumable.key}.json").write_text("{}")
    (work / "notes of mine").mkdir()
    with store.lock(held) as lock:
        assert lock.acquire()
        Store(store.root).prepare()
    assert {path.name for path in work.iterdir()} == {
        *(resumable.key, f"{resumable.key}.json"),  # to go on with
        *(held.key, f".{held.key}.record.123"),  # somebody is at it
        "notes of mine",
    }
    assert {path.name for path in locks.iterdir() if path.suffix != ".lock"} == {f".{held.key}.json.123"}
    assert not list((store.root / "failed").iterdir()) and not list((store.root / "verified").iterdir())


def test_clean(store):
    assert store.clean([]) == {} and not store.root.exists()
    other = PLANS["graph"]()
    running = kind("running")(a=text("read"))
    run([text("end", a=Steps(steps=2)), *other, text("read")], store)
    end = text("end", a=Steps(steps=2))
    damaged = artifact_of(store, other[0]).directory
    size = sum(path.stat().st_size for path in damaged.iterdir())
    store.discard(other[0])
    foreign = store.root / "write" / "notes of mine"
    foreign.mkdir()
    (store.root / "work" / running.key).mkdir()
    with store.lock(running) as lock:
        assert lock.acquire([text("read").key])
        removed = store.clean({end.key, end.inputs["a"].key})
    assert removed.pop(f"corrupt/{other[0].key}-1") == size > 0
    assert {path.split("/")[0] for path in removed} == {"write"} and len(removed) == 11
    assert artifact_of(store, end) is not None, "needed"
    assert artifact_of(store, text("read")) is not None, "read by the stage that runs"
    assert (store.root / "work" / running.key).exists(), "the stage that runs"
    assert foreign.exists(), "not a stage's"
    assert list((store.root / "corrupt").iterdir()) == []


def test_importing_the_queue_is_light():
    # what the package itself loads, to register its exported models, comes first and is no part of the room
    code = (
        "import sys, reproducer; of_all = set(sys.modules); import reproducer.queue; print(*of_all, '|', *sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    of_all, modules = (part.split() for part in run.stdout.split("|"))
    assert not {"torch", "numpy", "transformers", "rich"} & set(modules)
    rooms = {name.split(".")[1] for name in set(modules) - set(of_all) if name.startswith("reproducer.")}
    assert rooms == {"queue", "errors", "files", "registry"}, "it needs no other room"
