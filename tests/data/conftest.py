import gzip
import json

import pytest


class Words:
    """A tokenizer stand-in: one token a word, and one for each run of blank space that holds a line break.

    `first` is put before every text, as a LLaMA tokenizer puts its beginning-of-sequence token.
    """

    def __init__(self, first: int | None = None):
        self.first = [] if first is None else [first]
        self.vocabulary = {"a": 9}  # which tells what is put around a text
        self.calls = 0

    def __call__(self, text, **options):
        self.calls += 1
        return {"input_ids": self.encode(text) if isinstance(text, str) else [self.encode(one) for one in text]}

    def encode(self, text):
        words = text.replace("\n", " \n ").split(" ")
        return self.first + [self.vocabulary.setdefault(word, len(self.vocabulary) + 9) for word in words if word]

    def decode(self, ids, skip_special_tokens=False):
        names = {number: word for word, number in self.vocabulary.items()}
        return " ".join(names[int(number)] for number in ids)


@pytest.fixture
def words():
    return Words()


@pytest.fixture
def no_mirror(monkeypatch):
    monkeypatch.delenv("REPRODUCER_MIRROR", raising=False)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A function that puts rows into an own mirror, and is the mirror that readers see."""
    root = tmp_path / "mirror"
    root.mkdir()
    monkeypatch.setenv("REPRODUCER_MIRROR", str(root))

    def put(id, configuration, split, rows, compressed=True):
        path = root / id / configuration / f"{split}.jsonl{'.gz' if compressed else ''}"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(content) if compressed else content)
        return path

    return put


@pytest.fixture
def unreachable(monkeypatch):
    """The hub as a machine without internet sees it, without the wait."""
    import datasets

    def fail(path, *args, **options):
        raise ConnectionError(f"Couldn't reach '{path}' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(datasets, "load_dataset_builder", fail)
    from reproducer.data import hub

    hub.commit.cache_clear()
