"""The hub, which tests do not reach: the datasets library is led to local folders laid out as the hub's are."""

import errno

import pytest

from reproducer.data import hub
from reproducer.data.files import DataError
from reproducer.data.sources import Source
from reproducer.data.text import load_text
from tests.data.conftest import Words

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SENTENCES = ["no it was n't black monday", "<unk> trading was N", "stocks fell"]


@pytest.fixture
def converted(tmp_path, monkeypatch, no_mirror):
    """A branch of conversions with one folder a configuration; what datasets was asked for is returned."""
    import datasets

    for split, sentences in {"validation": SENTENCES, "test": SENTENCES[:1]}.items():
        folder = tmp_path / "hub" / "penn_treebank" / split
        folder.mkdir(parents=True)
        datasets.Dataset.from_dict({"sentence": sentences}).to_parquet(folder / "0000.parquet")
    asked = []
    load_dataset = datasets.load_dataset

    class Builder:
        hash = COMMIT

    def local(path, *args, revision=None, **options):
        asked.append({"path": path, "revision": revision, **options})
        return load_dataset(str(tmp_path / "hub"), *args, cache_dir=str(tmp_path / "cache"), **options)

    def builder(path, *args, revision=None, **options):
        asked.append({"path": path, "revision": revision, **options})
        return Builder

    monkeypatch.setattr(datasets, "load_dataset", local)
    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    hub.commit.cache_clear()
    return asked


def test_a_script_data_set_is_read_from_its_conversion_at_the_commit_found(converted):
    text = load_text("ptb", "report")
    assert list(text.passages) == SENTENCES
    assert text.joined() == "\n\n".join(SENTENCES)
    assert [ask["revision"] for ask in converted] == ["refs/convert/parquet", COMMIT]
    assert all(ask["path"] == "ptb-text-only/ptb_text_only" for ask in converted)
    assert text.rows.origin == "hub"
    assert COMMIT in text.rows.location


def test_the_fingerprint_downloads_nothing_and_covers_commit_and_split(converted, monkeypatch):
    digest = Source("ptb-text-only/ptb_text_only", "penn_treebank", "validation").fingerprint()
    assert [ask.get("split") for ask in converted] == [None], "only the builder may be asked"
    assert digest == load_text("ptb", "report").rows.fingerprint
    assert digest != load_text("ptb", "search").rows.fingerprint
    pinned = [Source(f"org/set@{letter * 40}").fingerprint() for letter in "ab"]
    assert pinned[0] != pinned[1]


def test_a_pinned_commit_needs_no_hub_for_its_fingerprint(unreachable, no_mirror):
    assert len(Source("Salesforce/wikitext", "wikitext-2-raw-v1", "test").fingerprint()) == 64


def test_a_lazy_column_serves_as_passages(converted):
    from reproducer.data.pool import calibration_pool

    text = load_text("ptb-text-only/ptb_text_only:penn_treebank:validation:sentence", "calibration")
    assert not isinstance(text.passages, list)
    pool = calibration_pool(text, Words(), 4)
    assert pool.places == [i for i, sentence in enumerate(SENTENCES) if len(sentence.split()) >= 4]
    assert pool.text(0) == SENTENCES[0]


def test_unreachable_without_a_mirror(unreachable, no_mirror):
    with pytest.raises(DataError) as error:
        load_text("wikitext2", "report")
    message = str(error.value)
    assert "data set Salesforce/wikitext (configuration wikitext-2-raw-v1, split test) was not found" in message
    places = ["path: 'Salesforce/wikitext' is no", "mirror: REPRODUCER_MIRROR is not set", "hub, revision b08601e0"]
    found = [message.index(place) for place in places]
    assert found == sorted(found), "in the order in which they were tried"
    assert "ConnectionError: Couldn't reach" in message
    assert "Salesforce/wikitext/wikitext-2-raw-v1/test.jsonl[.gz]" in error.value.hint


def test_unreachable_with_a_mirror_that_lacks_the_split(unreachable, mirror):
    path = mirror("org/set", "small", "validation", [{"text": "a"}])
    source = Source("org/set", "small", "test")
    for ask in (source.read, source.fingerprint):
        with pytest.raises(DataError) as error:
            ask()
        assert f"no file {path.parent / 'test'}.jsonl[.gz] (splits there: validation)" in str(error.value)


def test_a_full_disk_is_not_a_missing_data_set(monkeypatch, no_mirror):
    import datasets

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets, "load_dataset", full)
    with pytest.raises(OSError, match="No space left") as error:
        Source("org/set@" + COMMIT).read()
    assert error.value.errno == errno.ENOSPC
