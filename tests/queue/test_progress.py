import io
import time

import pytest
from queue_stages import kind
from rich.console import Console

from reproducer.queue import LiveProgress, Progress, console_progress, duration


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def stages(count, name="search"):
    return [kind(name)(n=n, label=f"{name} {n}") for n in range(count)]


def plain(clock):
    return Progress(io.StringIO(), clock=clock)


def lines(display):
    return display.stream.getvalue().splitlines()


def test_plain_lines(clock):
    display = plain(clock)
    one, two, three = stages(3)
    display.begin([one, two, three], cached=4, typical={})
    display.start(one)
    for second in range(1, 100):
        clock.now += 1
        display.update(one, second, 100, f"trial {second}")
    display.say("a note")
    display.finish(one, "done", 99.4)
    display.finish(two, "failed", message="the pool is too small\nask for fewer")
    display.finish(three, "blocked", message="needs 'search 1', which failed")
    display.close()
    assert lines(display) == [
        "7 stages: 4 in the store, 3 to do",
        "[5/7] search 0: started",
        "[5/7] search 0: 25% (trial 25), at least 1 min 15 s left",
        "[5/7] search 0: 50% (trial 50), at least 50 s left",
        "[5/7] search 0: 75% (trial 75), at least 25 s left",
        "a note",
        "[5/7] search 0: done in 1 min 39 s",
        "[6/7] search 1: failed: the pool is too small",
        "    ask for fewer",
        "[7/7] search 2: blocked: needs 'search 1', which failed",
    ]


def test_a_stage_that_tells_nothing_is_not_silent(clock):
    display = plain(clock)
    [one] = stages(1)
    display.begin([one], cached=0, typical={})
    display.start(one)
    for _ in range(60):
        clock.now += 1
        display.tick()
    assert lines(display)[2:] == [f"[1/1] search 0: for {seconds} s, time left unknown" for seconds in (25, 50)]


def test_time_left_of_a_running_stage_is_by_its_own_speed(clock):
    display = Progress(clock=clock)
    [one] = stages(1)
    display.begin([one], cached=0, typical={one.kind: 1000.0})
    assert display.time_left() == (1000.0, True)
    display.start(one)
    clock.now += 10
    assert display.time_left() == (990.0, True), "nothing known but what is usual"
    display.update(one, 40, 100)  # resumed: the first 40 were done before
    assert display.time_left() == (990.0, True)
    clock.now += 20
    display.update(one, 50, 100)
    assert display.time_left() == (pytest.approx(100.0), True), "10 in 20 seconds, 50 to go"
    clock.now += 2000
    display.update(one, 50, 0)
    assert display.time_left() == (0.0, True)


def test_another_part_of_a_stage_has_a_speed_of_its_own(clock):
    display = Progress(clock=clock)
    [one] = stages(1)
    display.begin([one], cached=0, typical={})
    display.start(one)
    for done in range(41):
        display.update(one, done, 42)
        clock.now += 1
    display.update(one, 0, 10)
    clock.now += 30
    display.update(one, 1, 10)
    assert display.time_left() == (pytest.approx(270.0), True)
    display.update(one, 1, 11)  # a total that is estimated anew is no other part
    assert display.time_left() == (pytest.approx(300.0), True)


def test_time_left_of_waiting_stages_is_by_their_kind(clock):
    display = Progress(clock=clock)
    searches, prunes = stages(3), stages(2, "prune")
    display.begin([*searches, *prunes], cached=0, typical={})
    assert display.time_left() is None
    display.start(searches[0])
    display.finish(searches[0], "done", 60.0)
    assert display.time_left() == (120.0, False), "of prune nothing is known: a lower bound"
    display.start(prunes[0])
    display.finish(prunes[0], "done", 5.0)
    assert display.time_left() == (125.0, True)
    display.finish(searches[1], "cached")
    assert display.time_left() == (65.0, True)
    display.finish(searches[2], "blocked")
    display.finish(prunes[1], "failed")
    assert display.time_left() == (0.0, True)


def test_live_display(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    display = LiveProgress(clock=clock, console=console)
    one, two = stages(2)
    display.begin([one, two], cached=1, typical={"search": 50.0})
    display.start(one)
    clock.now += 10
    display.update(one, 1, 4, "trial [1] of 4")
    end = time.monotonic() + 20
    while "25%" not in (shown := console.file.getvalue()):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "[2/3] search 0: started" in shown
    for part in ("search 0", "10 s", "trial [1] of 4", "1 of 3 stages", "about 1 min 30 s left"):
        assert part in shown, part
    display.say("[bold] is not markup")
    display.finish(one, "done", 11.0)
    display.finish(two, "cached", 50.0)
    display.close()
    shown = console.file.getvalue()
    assert "[bold] is not markup" in shown and "[2/3] search 0: done in 11 s" in shown
    assert shown.endswith("\x1b[?25h") or "\x1b[?25h" in shown, "the cursor is back"


def test_the_display_fits_the_stream():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert type(console_progress(io.StringIO())) is Progress
    assert type(console_progress(Terminal())) is LiveProgress
    display = console_progress(Terminal())
    display.close()  # before it was begun: an early error


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7805, "2 h 10 min"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
