"""The table of rows in llama.cpp."""

import math

import pytest

from reproducer.reporting.gguf import spread

from . import fake
from .reading import latex, markdown, section_of, tables

HEADING = "In llama.cpp"


def gguf(type: str, size: int, perplexity: float, **more) -> dict:
    facts = {
        "type": type, "architecture": "llama", "matrices": {type: 211}, "padded": 0, "bytes": size,
        "text": "python_topics", "windows": 20, "perplexity": perplexity, "prefill_tokens": 256, "decode_tokens": 64,
        "prefill": [150.0, 151.0, 149.0, 190.0, 148.0], "decode": [41.04, 40.5, 42.0, 40.0, 41.5], "threads": 2,
        "engine": "xllamacpp 2026.10", "device": "a CPU",
    }  # fmt: skip
    return facts | more


def deployed():
    """Dense and one pruned row, three files each; of the pruned ones the q8_0 is worse than the dense q4_k_m."""
    results = fake.quickstart()
    files = {
        "dense": [
            gguf("f16", 270 << 20, 31.2),
            gguf("q8_0", 145 << 20, 31.4),
            gguf("q4_k_m", 105 << 20, 33.0),
        ],
        "llm-pruner-e2": [
            gguf("f16", 216 << 20, 84.0, architecture="deci"),
            gguf("q8_0", 117 << 20, 85.0, architecture="deci", padded=25),
            gguf("q4_k_m", 85 << 20, 90.0, architecture="deci", padded=25),
        ],
    }
    return fake.change(results, rows=[fake.change(row, gguf=files.get(row.method, [])) for row in results.rows])


def test_sizes_perplexities_and_speeds_stand_side_by_side():
    results = deployed()
    (table,) = tables(results, HEADING)
    assert [line["Method"] for line in table] == ["SmolLM2-135M", "", "", "LLM-Pruner-E2, 20%, w/o tune", "", ""]
    assert [line["Type"] for line in table] == ["f16", "q8_0", "q4_k_m"] * 2
    assert [line[""] for line in table] == ["×1.00", "×0.54", "×0.39", "×0.80", "×0.43", "×0.31"]
    assert [line["Perplexity↓"] for line in table] == [
        "**31.20**",
        "**31.40**",
        "**33.00**",
        "84.00",
        "85.00",
        "**90.00**",
    ]
    losses = results.rows[0].window_losses["python_topics_ppl"][:20]
    assert table[0]["Here"] == f"{math.exp(sum(losses) / 20):.2f}" != table[3]["Here"]
    assert table[0]["Prefill↑"] == "150 (149 to 151)" and table[0]["Decode↑"] == "41.0 (40.5 to 41.5)"


def test_widths_that_miss_a_block_are_told():
    text = section_of(markdown(deployed()), HEADING)
    assert "in 25 layers of LLM-Pruner-E2. A spec’s prune.round" in text and "architecture deci" in text
    assert "in 25 layers" in latex(deployed())


@pytest.mark.parametrize(("values", "expected"), [([3.0], (3, 3, 3)), ([1.0, 2.0, 3.0, 4.0, 9.0], (3, 2, 4))])
def test_the_spread_is_of_quartiles(values, expected):
    assert spread(values) == expected
