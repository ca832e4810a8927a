import json

import pytest
import torch
from tokenizers import processors

from reproducer.data.files import DataError
from reproducer.data.pool import calibration_pool
from reproducer.data.text import TEXTS, load_text, text_fingerprints, text_label, text_source, windows
from reproducer.errors import UserError
from reproducer.models.tokenizer import byte_tokenizer
from tests.data.conftest import Words

ROWS = ["", " = Title = \n", "One two three . \n", "", "four <unk> five"]


@pytest.fixture
def wikitext(mirror):
    mirror("Salesforce/wikitext", "wikitext-2-raw-v1", "test", [{"text": row} for row in ROWS])
    return load_text("wikitext2", "report")


def test_rows_are_joined_as_they_are(wikitext):
    assert wikitext.joined() == "\n\n".join(ROWS)
    assert text_fingerprints("wikitext2", "report") == {"wikitext2 (report)": wikitext.rows.fingerprint}


@pytest.mark.parametrize("first", [None, 1])
@pytest.mark.parametrize("length", [3, 4, 5])
def test_windows_are_the_tokens_of_the_whole_text_in_order(wikitext, length, first):
    ids = Words(first)("\n\n".join(ROWS))["input_ids"]
    cut = windows(wikitext, Words(first), length)
    assert cut.dtype == torch.long
    assert cut.shape == (len(ids) // length, length)
    assert cut.flatten().tolist() == ids[: len(ids) - len(ids) % length]
    assert windows(wikitext, Words(first), length, limit=2).equal(cut[:2])
    assert windows(wikitext, Words(first), length, limit=1000).equal(cut)


def test_roles_of_the_catalogue_never_share_a_split():
    for entry in TEXTS.values():
        identities = [json.dumps(source.identity()) for source in entry.sources.values()]
        assert len(set(identities)) == len(identities)
    assert {"report", "search"} <= TEXTS["wikitext2"].sources.keys() & TEXTS["ptb"].sources.keys()


def test_resolving_reads_nothing(no_mirror, unreachable):
    for entry in TEXTS.values():
        for role, source in entry.sources.items():
            identity = text_source(entry.name, role).identity()
            assert json.loads(json.dumps(identity)) == identity == source.identity()


def test_an_unknown_text_gets_the_nearest_name():
    with pytest.raises(UserError, match=r"(?s)unknown text 'wikitext'.*did you mean 'wikitext2'.*org/dataset"):
        text_source("wikitext", "report")


def test_a_role_that_a_text_does_not_have():
    with pytest.raises(UserError, match=r"(?s)'gutenberg' cannot serve for report, only for calibration.*wikitext2"):
        text_source("gutenberg", "report")


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"body": "a"}\n{"body": "b"}\n')
    assert load_text(f"{path}:body", "calibration").passages == ["a", "b"]
    with pytest.raises(DataError, match=r"own\.jsonl:1: field 'text' is missing; there are: body"):
        load_text(str(path), "report")
    with pytest.raises(UserError, match=r"gone\.txt does not exist"):
        text_source(str(tmp_path / "gone.txt"), "report")


CLOSED = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])


def test_what_a_tokenizer_puts_behind_a_text_is_no_text(tmp_path):
    (tmp_path / "own.txt").write_text("abcdefgh")
    tokenizer = byte_tokenizer()
    plain = tokenizer("abcdefgh").input_ids
    tokenizer.backend_tokenizer.post_processor = CLOSED
    text = load_text(str(tmp_path / "own.txt"), "calibration")
    assert windows(text, tokenizer, 3).tolist() == [[1, *plain[:2]], plain[2:5], plain[5:8]]
    assert calibration_pool(text, tokenizer, 9).ids.tolist() == [[1, *plain]]
    with pytest.raises(DataError, match="the pool has 0"):
        calibration_pool(text, tokenizer, 10)
    each = load_text(f"{tmp_path / 'own.txt'}?begin=each", "report")
    assert windows(each, tokenizer, 3).tolist() == [[1, *plain[at : at + 2]] for at in (0, 2, 4, 6)]
    assert windows(each, byte_tokenizer(), 3).tolist() == windows(each, tokenizer, 3).tolist()
    with pytest.raises(UserError, match=r"no option 'begin=all'\ndid you mean 'begin=each'"):
        text_source("ptb?begin=all", "report")
    plainly = text_source("ptb", "report").identity()
    assert text_source("ptb?begin=each", "report").identity() == {**plainly, "begin": True}
    assert text_label("ptb?begin=each") == "PTB (begin=each)"
