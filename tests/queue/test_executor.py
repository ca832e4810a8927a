import errno
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import queue_handlers
from queue_handlers import HANDLERS, text

from reproducer.errors import UserError
from reproducer.queue import Handler, Progress, Stage, Store, run, survey
from reproducer.queue import artifact as artifact_module
from reproducer.queue import store as store_module
from reproducer.queue.files import LARGE


class Lines(Progress):
    """A display that keeps what it would show."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def _line(self, text):
        self.lines.append(text)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The lines that the handlers have logged; called, it returns and forgets them."""
    path = tmp_path / "log"
    monkeypatch.setenv("QUEUE_LOG", str(path))

    def take():
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    return take


def chain():
    first = text("a")
    return [text("c", second=text("b", first=first)), text("other")]


def statuses(outcome):
    return {result.stage.label: result.status for result in outcome.results.values()}


def test_runs_in_order_and_only_once(store, log):
    outcome = run(chain(), HANDLERS, store)
    assert statuses(outcome) == {"a": "done", "b": "done", "c": "done", "other": "done"} and outcome.ok
    assert log() == ["write a", "write b", "write c", "write other"]
    assert (outcome[chain()[0]].artifact.directory / "out.txt").read_text() == "abc"

    again = run(chain(), HANDLERS, Store(store.root))
    assert set(statuses(again).values()) == {"cached"} and log() == []
    for stage in chain():
        assert again[stage].artifact.record == outcome[stage.key].artifact.record
        assert again[stage].seconds == outcome[stage].seconds > 0
        assert store.artifact(stage) == again[stage].artifact


def test_only_what_depends_on_a_change_runs_again(store, log):
    run(chain(), HANDLERS, store)
    log()
    changed = [text("c", second=text("B", first=text("a"))), text("other")]
    assert statuses(run(changed, HANDLERS, store)) == {"a": "cached", "B": "done", "c": "done", "other": "cached"}
    assert log() == ["write B", "write c"]


def test_the_record(store):
    def work(context):
        context.record("loss", [1.5, {"last": 2}])
        (context.directory / "sub").mkdir()
        (context.directory / "sub" / "x.bin").write_bytes(b"\0" * 10)

    stage = Stage("job", 3, {"p": 1}, {"source": text("a")}, "the label")
    handlers = {**HANDLERS, "job": Handler(3, work, fingerprints=lambda params: {"file": f"digest {params['p']}"})}
    artifact = run([stage], handlers, store, environment={"packages": {"torch": "2"}})[stage].artifact
    record = json.loads((artifact.directory / "record.json").read_text())
    assert record == artifact.record
    assert {name: record[name] for name in ("key", "kind", "version", "params", "label")} == {
        "key": stage.key,
        "kind": "job",
        "version": 3,
        "params": {"p": 1},
        "label": "the label",
    }
    assert list(record["files"]) == ["sub/x.bin"]
    assert record["inputs"] == {"source": {"key": text("a").key, "digest": store.artifact(text("a")).digest}}
    assert record["fingerprints"] == {"file": "digest 1"}
    assert artifact.facts == {"loss": [1.5, {"last": 2}]}
    assert record["environment"]["packages"] == {"torch": "2"}
    assert {"python", "platform", "cpu", "cpu_count"} <= record["environment"].keys()
