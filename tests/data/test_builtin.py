import platform
from itertools import combinations

import pytest

from reproducer.data import builtin
from reproducer.data.text import load_text, text_fingerprints, windows
from tests.data.conftest import Words

EVERY = [(name, role) for name in builtin.TEXTS for role in builtin.ROLES]


def keys(name, role):
    return [builtin.paragraph_key(p) for passage in builtin.passages(name, role) for p in passage.split("\n\n")]


def test_no_paragraph_stands_twice_in_any_role_of_any_text():
    found = {where: keys(*where) for where in EVERY}
    assert all(found.values())
    for paragraphs in found.values():
        assert len(set(paragraphs)) == len(paragraphs)
    for one, other in combinations(EVERY, 2):
        assert not set(found[one]) & set(found[other]), (one, other)


@pytest.mark.parametrize(("name", "role"), EVERY)
def test_enough_text_for_calibration_search_and_report(name, role):
    text = load_text(name, role)
    assert text.rows.origin == "builtin"
    assert platform.python_version() in text.rows.location
    # One token a word is fewer than any subword tokenizer makes of technical English.
    lengths = [len(passage.split()) for passage in text.passages]
    assert min(lengths) >= builtin.PASSAGE_WORDS
    if role == "calibration":
        assert len(lengths) >= 100
    else:
        assert len(windows(text, Words(), 128)) * 128 >= 4096


def test_a_changed_source_changes_the_fingerprint(monkeypatch):
    from reproducer.data import sources

    before = text_fingerprints("python-topics", "report")
    passages = builtin.passages
    monkeypatch.setattr(builtin, "passages", lambda name, role: (*passages(name, role), "one more"))
    sources._builtin_text.cache_clear()
    try:
        assert text_fingerprints("python-topics", "report") != before
    finally:
        monkeypatch.undo()
        sources._builtin_text.cache_clear()
