"""What the offline mirror of the real data sets gives."""

import gzip
import json
import os
from pathlib import Path

import pytest

from reproducer.data.instructions import load_instructions
from reproducer.data.pool import calibration_pool
from reproducer.data.tasks import TASKS
from reproducer.data.text import TEXTS, load_text, windows
from tests.data.conftest import Words

pytestmark = pytest.mark.mirror


def column(stem, field):
    with gzip.open(Path(os.environ["REPRODUCER_MIRROR"], stem + ".jsonl.gz"), "rt", encoding="utf-8") as file:
        return [json.loads(line)[field] for line in file]


STEMS = {
    ("wikitext2", "report"): ("Salesforce/wikitext/wikitext-2-raw-v1/test", "text"),
    ("wikitext2", "search"): ("Salesforce/wikitext/wikitext-2-v1/validation", "text"),
    ("ptb", "report"): ("ptb-text-only/ptb_text_only/penn_treebank/validation", "sentence"),
    ("ptb", "search"): ("ptb-text-only/ptb_text_only/penn_treebank/test", "sentence"),
}


@pytest.mark.parametrize(("name", "role"), STEMS)
def test_windows_follow_llm_pruners_protocol(name, role):
    rows = column(*STEMS[name, role])
    ids = Words()("\n\n".join(rows))["input_ids"]
    cut = windows(load_text(name, role), Words(), 128)
    assert cut.flatten().tolist() == ids[: len(ids) // 128 * 128]


@pytest.mark.parametrize("name", ["wikitext2", "ptb"])
def test_search_and_report_share_hardly_a_long_passage(name):
    """PTB's newspaper prints the same legends below its tables day after day: 10 sentences of 2,756."""
    report, search = (set(filter(long, load_text(name, role).passages)) for role in ("report", "search"))
    assert report and search
    assert len(report & search) < 0.005 * len(report)


def long(passage):
    return len(passage.split()) >= 12


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"quiz"}))
def test_every_task_is_sound(task):
    rows = TASKS[task].rows()
    assert rows.origin == "mirror"
    assert len(rows) >= 500


def test_calibration_and_instructions():
    assert TEXTS["gutenberg"].sources.keys() == {"calibration"}
    text = load_text("gutenberg", "calibration")
    pool = calibration_pool(text, Words(), 128)
    assert pool.places == [i for i, p in enumerate(text.passages) if len(Words().encode(p)) >= 128]
    assert len(pool) > 1500
    assert len(load_instructions("alpaca", Words(), limit=100)) == 100
