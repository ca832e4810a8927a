"""The paper's method against what had the search's texts or its compute."""

import math

import pytest

from reproducer.reporting.controls import control_blocks
from tests.reporting.claimed import run
from tests.reporting.fake import change
from tests.reporting.reading import markdown, tables

LOSS = {"dense": 3.0, "AdaPruner": 4.0, "LLM-Pruner-E2": 4.1, "LLM-Pruner-E1": 3.8}
SIGHT = {"purpose": "calibration", "dataset": "wikitext2", "split": "search", "samples": 5}


def controlled(seeds=range(5)):
    """E2 as a control that had the search's texts, on these seeds; E1 as it is."""
    results = run(dict.fromkeys(LOSS, 0.5), loss=LOSS, spread=0.002)
    e2 = {"label": "E2 on the search's texts", "control": "same-information"}
    rows = [
        change(row, **(e2 if row.label == "LLM-Pruner-E2" else {}))
        for row in results.rows
        if row.label != "LLM-Pruner-E2" or row.seed in seeds
    ]
    return change(results, rows=rows)


def effects(results):
    return {one.line.label: one for (block,) in [control_blocks(results)] for one in block if one.effect}


def test_the_effect_is_that_of_the_losses_on_the_seeds_of_both():
    found = effects(controlled(seeds=(1, 3)))
    assert found.keys() == {"E2 on the search's texts", "LLM-Pruner-E1"}
    for label, loss, seeds in (("E2 on the search's texts", 4.1, 2), ("LLM-Pruner-E1", 3.8, 5)):
        effect = found[label].effect
        assert found[label].seeds == seeds and effect.low < effect.value < effect.high
        assert effect.value == pytest.approx(100 * math.expm1(4.0 - loss), abs=1.5)
    assert found["E2 on the search's texts"].informed and not found["LLM-Pruner-E1"].informed
    assert effects(controlled(seeds=(1,))).keys() == {"LLM-Pruner-E1"}, "of one seed nothing"


def test_what_had_the_searchs_texts_is_named_on_the_first_screen():
    results = controlled()
    rows = [change(row, saw=[SIGHT]) if row.label == "LLM-Pruner-E1" else row for row in results.rows]
    results = change(results, rows=rows)
    answer = next(line for line in markdown(results).splitlines() if "Is it the search?" in line)
    assert "“E2 on the search's texts” −9" in answer and "“LLM-Pruner-E1” +2" in answer
    told = {line["Method"]: line["AdaPruner against it"] for line in tables(results, "Controls")[0]}
    assert told["AdaPruner"] == "–" and told["E2 on the search's texts"].startswith("−9")
    assert "Is it the search?" not in markdown(run(dict.fromkeys(LOSS, 0.5), loss=LOSS))
