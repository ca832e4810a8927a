"""The time that a search says is left."""

import pytest

from reproducer.search.pace import Pace


def test_parts_of_different_length_are_told_in_seconds():
    """Within a quarter of the truth from a tenth on: trials follow passages, and baselines stand between them."""
    now, told = [0.0], []
    counts, seconds = {"passages": 40, "baselines": 2, "trials": 60}, {"passages": 0.5, "baselines": 9.0, "trials": 2.0}
    work = {"passages": 1.0, "baselines": 14.0, "trials": 5.0}  # by tokens, which is not quite what it takes
    pace = Pace(lambda done, total, _: told.append((now[0], done, total)), counts, work, clock=lambda: now[0])
    end = sum(counts[part] * seconds[part] for part in counts)

    def run(part, start, stop):
        for done in range(start, stop):
            pace.tell(part, done)
            now[0] += seconds[part]

    run("passages", 0, 40)
    pace.finish("passages")
    run("trials", 0, 3)
    pace.tell("trials", 3)
    run("baselines", 0, 2)
    pace.finish("baselines")
    run("trials", 3, 60)
    pace.tell("trials", 60)
    assert told[-1][1] == told[-1][2] == end == now[0]
    for when, done, total in told:
        assert done == when or total == 1.0
        if end / 10 < when < end:
            assert total - done == pytest.approx(end - when, rel=0.25)


def test_what_was_done_before_says_nothing_of_the_pace():
    now, told = [0.0], []
    pace = Pace(lambda *state: told.append(state), {"trials": 100}, {"trials": 1.0}, clock=lambda: now[0])
    pace.tell("trials", 90)
    now[0] += 3
    pace.tell("trials", 91, "best so far")
    assert told[-1] == (3.0, 30.0, "best so far")
