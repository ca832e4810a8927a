import hashlib
import json

import pytest

from reproducer.data.files import DataError
from reproducer.data.sources import Source, find_source, parse_source
from reproducer.data.text import load_text
from reproducer.errors import UserError

GOOD = [{"text": "one"}, {"text": "two"}]


@pytest.fixture
def lines(tmp_path):
    def write(*content: str | bytes, name="rows.jsonl"):
        path = tmp_path / name
        path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in content))
        return str(path)

    return write


@pytest.mark.parametrize("compressed", [True, False])
def test_mirror_rows_and_the_fingerprint_of_their_file(mirror, compressed):
    path = mirror("org/set", "small", "test", GOOD, compressed)
    rows = Source("org/set", "small", "test").read()
    assert list(rows.rows) == GOOD
    assert (rows.origin, rows.location, rows.lines) == ("mirror", str(path), [1, 2])
    assert rows.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert Source("org/set", "small", "test").fingerprint() == rows.fingerprint


def test_a_changed_file_is_read_again(mirror):
    mirror("org/set", "default", "train", GOOD)
    before = Source("org/set").read()
    mirror("org/set", "default", "train", [*GOOD, {"text": "three"}])
    after = Source("org/set").read()
    assert (len(before), len(after)) == (2, 3)
    assert before.fingerprint != after.fingerprint == Source("org/set").fingerprint()


def test_separators_inside_a_json_string_end_no_line(lines):
    rows = Source(lines(json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False))).read()
    assert rows.rows[0]["text"] == "a\u2028b\x85c"


CONTENT = "\n \nFirst line\r\nsecond line  \n\n  \nNext. \u2028 it ends\x85\n\n\n\nLast\n\n"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_text_file_is_read_as_it_is(lines, mark):
    """By paragraph, with all that stands between two of them; a byte-order mark is no text."""
    path = lines(mark + CONTENT.encode(), name="own.txt")
    rows = Source(path).read()
    text = load_text(path, "report")
    assert text.joined() == CONTENT
    assert [passage.strip()[:5] for passage in text.passages] == ["First", "Next.", "Last"]
    assert rows.lines == [1, 7, 11]
    assert rows.fingerprint == Source(path).fingerprint()
    assert load_text(f"{path}?join=\\n", "report").joined() == "\n".join(text.passages)
    assert load_text(lines(mark + b'{"text": " a\\r\\n"}'), "report").passages == [" a\r\n"]


@pytest.mark.parametrize("name", ["own.txt", "own.jsonl"])
def test_a_pointer_of_git_lfs_is_no_data(lines, name):
    with pytest.raises(DataError, match=r"own\.\w+ is a git-lfs pointer"):
        Source(lines("version https://git-lfs.github.com/spec/v1", "oid sha256:00", name=name)).read()


BAD_FILES = {
    "empty": ([""], r"rows\.jsonl: the file is empty"),
    "no JSON": (['{"text": "a"}', '{"text": '], r"rows\.jsonl:2: not JSON"),
    "no object": (['{"text": "a"}', "[1, 2]"], r"rows\.jsonl:2: a row must be a JSON object, this is list"),
    "no UTF-8": (['{"text": "a"}', '{"text": "b"}', b'{"text": "\xe9"}'], r"rows\.jsonl:3: not UTF-8 \(byte 0xe9\)"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named_with_their_line(lines, case):
    content, message = BAD_FILES[case]
    with pytest.raises(DataError, match=message):
        Source(lines(*content)).read()


ABSURD = {
    "nested beyond the recursion limit": ("[" * 100_000 + "]" * 100_000, r"nested too deeply"),
    "an integer of 5,000 digits": ("9" * 5000, r"a number that cannot be read: .*4300"),
    "half of a surrogate pair": (r'"a\ud800b"', r"\\ud800 is half of a surrogate pair"),
}


@pytest.mark.parametrize("case", ABSURD)
def test_json_that_no_reader_can_hold_is_named_with_its_line(lines, case):
    content, message = ABSURD[case]
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{message}"):
        Source(lines('{"text": "a"}', f'{{"text": "b", "more": {content}}}')).read()


def test_paths_that_cannot_be(tmp_path):
    for name in ("~nobody-here/x.txt", "~nobody-here/x"):
        with pytest.raises(DataError, match="~nobody-here"):
            find_source("text", name, {}, "test")
    with pytest.raises(DataError, match="does not exist"):
        find_source("text", "x" * 5000 + ".txt", {}, "test")
    with pytest.raises(UserError, match="unknown text"):
        find_source("text", "x" * 5000, {}, "test")


@pytest.mark.parametrize("damage", [lambda raw: b"plain text", lambda raw: raw[: len(raw) // 2]])
def test_a_damaged_archive(mirror, damage):
    path = mirror("org/set", "default", "train", GOOD * 50)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"train\.jsonl\.gz: not a whole gzip file"):
        Source("org/set").read()


def test_a_missing_field_or_one_that_is_no_text(lines):
    rows = Source(lines('{"text": "a"}', '{"sentence": "b", "id": 4}', '{"text": 3}')).read()
    with pytest.raises(DataError, match=r"rows\.jsonl:2: field 'text' is missing; there are: sentence, id"):
        rows.strings("text")
    rows = Source(lines('{"text": "a"}', '{"text": 3}', name="other.jsonl")).read()
    with pytest.raises(DataError, match=r"other\.jsonl:2: field 'text' is not text: 3"):
        rows.strings("text")


def test_a_missing_file_and_one_of_no_known_kind(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl does not exist"):
        Source(str(tmp_path / "gone.jsonl")).read()
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"(?s)table\.csv is of no known kind.*\.jsonl\.gz"):
        parse_source(str(tmp_path / "table.csv"), "train")


@pytest.mark.parametrize("part", ["../x", "a/b", "train[:10]", ".."])
def test_configuration_and_split_are_plain_names(mirror, part):
    with pytest.raises(DataError, match="not the plain name"):
        Source("org/set", "default", part).read()


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("org/set", Source("org/set", None, "train", "text")),
        ("org/set:small", Source("org/set", "small", "train", "text")),
        ("org/set:small:test", Source("org/set", "small", "test", "text")),
        ("org/set::test", Source("org/set", None, "test", "text")),
        ("org/set:small:test:body", Source("org/set", "small", "test", "body")),
        ("org/set@refs/convert/parquet:small", Source("org/set@refs/convert/parquet", "small", "train", "text")),
        ("dir/own.txt", Source("dir/own.txt", None, "train", "text")),
        ("own.jsonl.gz:body", Source("own.jsonl.gz", None, "train", "body")),
        ("wikitext3", None),
        ("a/b/c", None),
        ("../set", None),
        ("org/set:a:b:c:d", None),
    ],
)
def test_names_of_data(name, source):
    assert parse_source(name, "train") == source


def test_identity_pins_the_revision_and_reads_nothing(no_mirror, tmp_path):
    identity = Source("Rowan/hellaswag", "default", "validation").identity()
    assert len(identity["revision"]) == 40
    assert Source("org/set@abc").identity() != Source("org/set").identity()
    path = tmp_path / "not there.txt"
    assert Source(str(path)).identity() == {"path": str(path), "field": "text", "as_is": True}
    for source in (Source("org/set"), Source("builtin/quiz"), Source(str(path))):
        assert json.loads(json.dumps(source.identity())) == source.identity()
