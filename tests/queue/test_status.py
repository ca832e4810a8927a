"""Who holds a stage, what is seen of it from outside, and what it leaves in its log."""

import io
import json
import logging
import os
import socket
import sys
from types import SimpleNamespace

import pytest
from queue_stages import Crash, Mistake, Wait, kind, text

from reproducer.errors import UserError
from reproducer.queue import Progress, follow, run
from reproducer.queue import watch as watch_module
from reproducer.queue.attempt import attempt
from reproducer.watching import find_stage, holder_text, log_text


def test_who_has_lost_its_lock_publishes_nothing(store):
    """As a machine that was cut off for longer than the file server waited, while another took the stage over."""

    def run_cut_off(context):
        note = store.root / "locks" / f"{stage.key}.json"
        other = {**json.loads(note.read_text()), "host": "other", "token": "another hold"}
        note.write_text(json.dumps(other))
        (context.directory / "theirs").write_text("the other's work")
        context.progress(1, 2, "too late")
        if stage.n:
            raise ValueError("files have gone")

    for n in range(2):
        stage = kind("cut-off", run_cut_off)(n=n)
        store.prepare()
        assert attempt(stage, store.root, "cpu", "a run", {}, {}).status == "held"
        assert store.read(stage) is None and store.failure(stage) is None
        assert (store.root / "work" / stage.key / "theirs").exists(), "what the other works on is left alone"
        holder = store.lock(stage).holder()
        assert holder.host == "other" and holder.progress == (0.0, 0.0, ""), "nor is its note written over"
        assert str(holder).startswith(f"process {os.getpid()} on other, at it since 2")


def test_what_a_stage_prints_goes_to_its_log(store, capsys):
    kept = []

    def talk(context):
        print("printed")
        print("to the other stream", file=sys.stderr)
        logging.getLogger("a.library").warning("logged")
        context.say("said to the user")
        kept.append(sys.stderr)

    shown = io.StringIO()
    stage, failed, mistake = kind("talks", talk)(), Crash(), Mistake()
    run([stage, failed, mistake], store, progress=Progress(shown))
    told = log_text(store, stage)
    for words in ("printed", "to the other stream", "WARNING a.library: logged", "said to the user"):
        assert words in told
    assert f"  started on {socket.gethostname()}, cpu, process {os.getpid()}\n" in told and "  done in 0.0 s\n" in told
    assert "printed" not in shown.getvalue() and "talks: said to the user" in shown.getvalue()
    assert "printed" not in capsys.readouterr().out
    assert "ZeroDivisionError: a bug" in log_text(store, failed) and "Traceback" in log_text(store, failed)
    assert "failed: the pool is too small\nask for fewer samples" in log_text(store, mistake)
    kept[0].write("a library that has kept the stream")  # is no error after the stage, and not in its log
    assert log_text(store, stage) == told
    run([mistake], store)
    assert log_text(store, mistake).count("failed: the pool is too small") == 2, "attempts are added"
    with pytest.raises(UserError, match="write 'never' has not run in the store"):
        log_text(store, text("never"))
    store.clean([stage.key])
    assert [path.stem for path in (store.root / "logs").iterdir()] == [stage.key]


def test_who_is_at_a_stage(store):
    stage = text("a")
    store.prepare()
    lock = store.lock(stage)
    assert store.holder(stage) is None and lock.acquire([], "cuda:1")
    lock.note(progress=(4.0, 10.0, "trial 4"))
    holder = store.holder(stage)
    host = socket.gethostname()
    assert (holder.host, holder.device, holder.pid) == (host, "cuda:1", os.getpid())
    shown = holder_text(holder)
    assert shown.startswith(f"{host}, cuda:1, process {os.getpid()}, ") and shown.endswith(" s), 40%, trial 4")
    note = store.root / "locks" / f"{stage.key}.json"
    content = note.read_text()
    lock.release()
    assert store.holder(stage) is None
    note.write_text(content)
    assert store.holder(stage) is None, "the note of a killed process"


def test_watching_shows_what_others_do_until_all_is_done(store, monkeypatch):
    done, waits, fails = text("done"), Wait(label="the long one"), Mistake()
    run([done, fails], store)
    lock, now, shown = store.lock(waits), [0.0], []

    class Display(Progress):
        def update(self, stage, done, total, text=""):
            super().update(stage, done, total, text)
            shown.append((stage.label, done, total, text, self.time_left()))

        def show(self, text):
            shown.append(text)

    def others(seconds):
        now[0] += 10.0
        if now[0] < 30.0:
            lock.note(progress=(now[0] / 5, 10.0, "trial"))
        elif now[0] == 30.0:
            lock.release()
            run([kind("wait")(label="the long one")], store)
        else:
            run([kind("mistake")()], store)

    monkeypatch.setattr(watch_module, "time", SimpleNamespace(sleep=others))
    assert lock.acquire([], "cuda:1")
    follow([done, waits, fails], store, Display(clock=lambda: now[0]))
    assert shown[0] == "3 stages: 1 in the store, 2 to do"
    assert [line for line in shown if "failed" in line] == [shown[2]] and "the pool is too small" in shown[2]
    *second, (left, is_all) = [line for line in shown if isinstance(line, tuple)][1]
    assert second == ["the long one", 2.0, 10.0, f"trial on {socket.gethostname()}, cuda:1"]
    *third, (left, is_all) = [line for line in shown if isinstance(line, tuple)][2]
    assert third[1] == 4.0 and left == pytest.approx(30.0) and not is_all, "of `mistake` nothing is known"
    assert "the long one: done in " in shown[-2] and "mistake: done in " in shown[-1]


def test_a_stage_is_found_by_its_key_or_its_words():
    stages = [text(1, "model a"), text(2, "model b"), kind("search")(label="model a")]
    assert find_stage(stages, stages[1].key[:6]) == find_stage(stages, "model b") == stages[1]
    assert (
        find_stage(stages, "search model a")
        == find_stage(stages, "a Model seaRch")
        == find_stage(stages, "SEARCH")
        == stages[2]
    )
    with pytest.raises(UserError, match=rf"'model a' fits 2 stages\n.*\n  {stages[0].key[:12]}  write  model a"):
        find_stage(stages, "model a")
    with pytest.raises(UserError, match="no stage 'model c'"):
        find_stage(stages, "model c")
