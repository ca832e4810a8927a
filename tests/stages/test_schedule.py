"""`--dry-run --on`: the queue of a 7B table on devices that are not here."""

import re

import pytest
from test_estimates import GIB, TABLE1, finished, stages

from reproducer.errors import UserError
from reproducer.queue import Outcome, Result
from reproducer.stages.estimates import estimates
from reproducer.stages.schedule import ARITHMETIC, BANDWIDTH, data_sheets, device_named, schedule_text


def text_of(queue, name="a100-80gb", count=2, outcome=None):
    device = device_named(name)
    outcome = outcome or Outcome({stage.key: Result(stage, "missing") for stage in queue})
    found = estimates(queue, outcome, device)
    todo = [stage for stage in queue if outcome[stage].artifact is None]
    return schedule_text(todo, device, count, found), found


def seconds(words: str) -> float:
    units = {"s": 1, "min": 60, "h": 3600}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+) (s|min|h)", words))


def test_a_schedule_keeps_to_the_estimates_and_its_bounds(tmp_path):
    queue = stages(tmp_path)
    shown, found = text_of(queue)
    rows = [re.split(r"  +", line.strip()) for line in shown.partition("busy\n")[2].splitlines()[1:]]
    spans = {int(row[0]): seconds(row[1]) for row in rows}
    least = seconds(re.search(r"The critical path takes ([^,]+),", shown)[1])
    assert {1, 2, 4} <= spans.keys() and list(spans) == sorted(spans)
    assert spans[1] == pytest.approx(found.seconds, rel=0.02), "one device does one stage after the other"
    for fewer, more in zip(spans, list(spans)[1:], strict=False):
        assert least * 0.98 <= spans[more] <= spans[fewer]
    assert shown.startswith("On 2 × NVIDIA A100 80 GB (SXM): about ")
    assert float(rows[1][2]) == pytest.approx(2 * spans[2] / 3600, rel=0.05), "device hours"
    path = shown.partition("is quicker:\n")[2].partition("\n\n")[0].splitlines()
    assert sum(map(seconds, path)) <= least * 1.02 and "llama-7b" in path[0], "it begins with the model"


def test_what_is_in_the_store_is_not_planned_and_the_unknown_is_told(tmp_path):
    queue = stages(tmp_path)
    results = {stage.key: Result(stage, "missing") for stage in queue} | {queue[0].key: finished(queue[0], 1.0)}
    without, _ = text_of(queue, outcome=Outcome(results))
    everything, _ = text_of(queue)
    assert seconds(without.splitlines()[0]) < seconds(everything.splitlines()[0])
    unknown = stages(tmp_path, TABLE1.replace("llama-7b", "someone/model"))
    assert f"at least ({len(unknown)} stages have no estimate)" in text_of(unknown)[0]


def test_a_device_is_as_quick_as_its_data_sheet_says(tmp_path):
    device, sheet = device_named("l4-24gb"), data_sheets()["l4-24gb"]
    rates = device.rates("bfloat16")
    assert rates.flops == ARITHMETIC * sheet["tflops"]["bfloat16"] * 1e12
    assert rates.bytes == BANDWIDTH * sheet["bandwidth"] * 1e9
    assert device_named("v100-32gb").rates("bfloat16") == device_named("v100-32gb").rates("float32")
    assert device.memory == 22 * GIB
    # what this machine has measured says nothing of it
    queue = [stage for stage in stages(tmp_path) if stage.kind == "perplexity"]
    seen = Outcome({queue[0].key: finished(queue[0], 1e6)})
    assert estimates(queue, seen, device).stages == estimates(queue, Outcome({}), device).stages
    with pytest.raises(UserError, match="unknown device 'a100-80g'\ndid you mean 'a100-80gb'"):
        device_named("a100-80g")
