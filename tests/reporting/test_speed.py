"""The table of latencies beside the dense model's."""

from . import fake
from .reading import latex, markdown, section_of, tables

HEADING = "Reading and writing"


def speed(factor: float, missed: int = 0) -> dict:
    seconds = [0.100, 0.102, 0.104, 0.106, 0.108]
    facts = {"prefill_tokens": 128, "decode_tokens": 10, "batch": 1, "multiple": 64, "layers": 30, "missed": missed}
    return facts | {
        "prefill": [factor * one for one in seconds],
        "decode": [2 * factor * one for one in seconds],
        "device": "a CPU",
    }


def timed():
    """The dense row, one of half its latency, and that one tuned, which has the same times."""
    dense, pruned = fake.quickstart().rows[0], fake.quickstart().rows[4]
    fast = {"speed": speed(0.5, missed=29), "stages": {"speed": "b" * 20}}
    rows = [
        fake.change(dense, speed=speed(1.0), stages={"speed": "a" * 20}),
        fake.change(pruned, **fast),
        fake.change(pruned, **fast, recovery="lora"),
    ]
    return fake.change(fake.quickstart(), rows=rows)


def test_latencies_stand_beside_the_dense_models():
    (table,) = tables(timed(), HEADING)
    assert [line["Method"] for line in table] == ["SmolLM2-135M", "LLM-Pruner-E2"]
    assert [line["Prefill↓"] for line in table] == ["104 (102 to 106)", "52 (51 to 53)"]
    assert [line["Decode↓"] for line in table] == ["20.8 (20.4 to 21.2)", "10.4 (10.2 to 10.6)"]
    assert table[1]["Of dense↓"] == "0.50" and "0.50" in latex(timed())


def test_widths_that_miss_the_hardwares_multiple_are_told():
    text = section_of(markdown(timed()), HEADING)
    assert "So have LLM-Pruner-E2 in 29 of 30 layers." in text and "round_to: 64" in text
    results = timed()
    even = [fake.change(row, speed=speed(1.0)) for row in results.rows]
    assert "miss a multiple" not in section_of(markdown(fake.change(results, rows=even)), HEADING)
    assert section_of(markdown(fake.quickstart()), HEADING) == ""
