"""Simulated runs, beside what must hold of every schedule."""

from graphlib import TopologicalSorter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from queue_stages import Timed, text

from reproducer.queue import critical_path, makespan, simulate, topological
from tests.helpers import examples


@st.composite
def queues(draw):
    """Stages with inputs among those before, and the seconds of each by key."""
    stages = []
    for number in range(draw(st.integers(1, 12))):
        chosen = draw(st.lists(st.sampled_from(stages), max_size=3, unique=True)) if stages else []
        inputs = dict(zip("abc", chosen, strict=False))
        stages.append(Timed(n=number, **inputs) if draw(st.integers(0, 4)) == 0 else text(number, **inputs))
    return topological(stages), {stage.key: draw(st.integers(0, 20)) for stage in stages}


@given(queues(), st.integers(1, 5))
@examples(150)
def test_schedules_are_possible_and_within_their_bounds(queue, workers):
    stages, seconds = queue
    spans = simulate(stages, seconds, workers)
    assert sorted(spans) == sorted(seconds), "each once"
    for stage in stages:
        worker, began, ended = spans[stage.key]
        assert 0 <= worker < workers and ended - began == seconds[stage.key]
        assert all(spans[one.key][2] <= began for one in stage.inputs.values())
    for worker in range(workers):
        own = sorted(span[1:] for span in spans.values() if span[0] == worker)
        assert all(before[1] <= behind[0] for before, behind in pairwise(own))
    total = sum(seconds.values())
    chain, least = critical_path(stages, seconds)
    assert least == sum(seconds[stage.key] for stage in chain)
    assert all(before in behind.inputs.values() for before, behind in pairwise(chain))
    # the longest way by a computation of its own
    longest = {}
    for key in TopologicalSorter({one.key: [i.key for i in one.inputs.values()] for one in stages}).static_order():
        one = next(stage for stage in stages if stage.key == key)
        longest[key] = seconds[key] + max((longest[i.key] for i in one.inputs.values()), default=0)
    assert least == max(longest.values())
    assert max(least, total / workers) <= makespan(spans) <= total
    for timed in (stage for stage in stages if stage.timed):
        _, began, ended = spans[timed.key]
        others = [span for key, span in spans.items() if key != timed.key]
        assert all(end <= began or ended <= start for _, start, end in others)
    if not any(stage.timed for stage in stages):  # Graham's bound for a list schedule
        assert makespan(spans) <= total / workers + (1 - 1 / workers) * least + 1e-9
        assert makespan(simulate(stages, seconds, len(stages))) == least


def test_inputs_that_are_in_the_store_are_not_waited_for():
    first = text("a")
    second = text("b", a=first)
    assert makespan(simulate([second], {second.key: 3.0}, 1)) == 3.0
    assert makespan(simulate([], {}, 2)) == 0.0
