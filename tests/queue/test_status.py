"""Who holds a stage, what is seen of it from outside, and what it leaves in its log."""

import io
import json
import logging
import os
import socket
import sys
from datetime import datetime

import pytest
from queue_stages import Crash, Mistake, kind, text

from reproducer.errors import UserError
from reproducer.files import read_json
from reproducer.queue import Monitor, Progress, run
from reproducer.queue.attempt import attempt
from reproducer.watching import find_stage, log_text, standing_text, watch


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
        assert attempt(stage, store.root, "cpu", "a run", {}, {}) is None
        assert store.read(stage) is None and store.failure(stage) is None
        assert (store.root / "work" / stage.key / "theirs").exists(), "what the other works on is left alone"
        holder = store.lock(stage).holder()
        assert holder.host == "other" and holder.progress is None, "nor is its note written over"
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


def test_a_monitor_sees_what_runs_where(store):
    done, running, later, failing = text("done"), text("running"), text("later"), Mistake()
    run([done, failing], store)
    now = [0.0]
    monitor = Monitor([running, done, later, failing], store, clock=lambda: now[0])
    lock = store.lock(running)
    assert lock.acquire([], "cuda:1")
    lock.tell(2, 10, "trial 2")
    monitor.look()
    now[0] = 10.0
    lock.tell(4, 10, "trial 4")
    standing = monitor.look()
    assert [standing.states[stage.key] for stage in (running, done, later, failing)] == [
        *("running", "done", "open", "failed"),
    ]
    [(stage, holder)] = standing.running
    host = socket.gethostname()
    assert stage == running and (holder.host, holder.device, holder.pid) == (host, "cuda:1", os.getpid())
    left, whole = standing.left
    assert left == pytest.approx(30.0, abs=0.5) and not whole, "6 of 10 at 0.2 a second; of `mistake` nothing is known"
    shown = standing_text("small", standing, lambda: datetime.fromisoformat(holder.since))
    assert "small: 1 of 4 stages done, 1 running, 1 failed; at least 30 s left with 1 worker" in shown
    for words in (f"{host}, cuda:1, process {os.getpid()}", "(0.0 s)", "40% trial 4"):
        assert words in shown
    assert "mistake\n    the pool is too small\n    ask for fewer samples" in shown
    lock.release()
    assert monitor.look().running == []


def test_the_note_of_a_killed_process_is_no_running_stage(store):
    store.prepare()
    stage = text("a")
    lock = store.lock(stage)
    lock.acquire()
    note = read_json(store.root / "locks" / f"{stage.key}.json")
    lock.release()
    (store.root / "locks" / f"{stage.key}.json").write_text(json.dumps(note))
    assert Monitor([stage], store).look().running == []


def test_watching_ends_when_all_is_done(store):
    stages = [text("a"), text("b")]
    run(stages, store)
    shown = io.StringIO()
    watch("small", stages, store, shown)
    assert shown.getvalue() == "small: 2 of 2 stages done, 0 running\n\n"


def test_a_stage_is_found_by_its_key_or_its_words():
    stages = [text(1, "model a"), text(2, "model b"), kind("search")(label="model a")]
    assert find_stage(stages, stages[1].key[:6]) == find_stage(stages, "model b") == stages[1]
    assert find_stage(stages, "search model a") == find_stage(stages, "SEARCH") == stages[2]
    with pytest.raises(UserError, match=rf"'model a' fits 2 stages\n.*\n  {stages[0].key[:12]}  write  model a"):
        find_stage(stages, "model a")
    with pytest.raises(UserError, match="no stage 'model c'"):
        find_stage(stages, "model c")
