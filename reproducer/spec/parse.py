"""YAML 1.2 text to nodes: plain values, with a line for every one, and plain words for mistakes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver

from reproducer.errors import nearest
from reproducer.spec.origins import Mistake, Node, Origin, SpecError

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_TEXT = {_TAG + kind for kind in ("str", "timestamp", "value")}  # a date is text
_SCALARS = _TEXT | {_TAG + kind for kind in ("int", "float", "bool", "null")}

LARGEST_FILE = 2**18  # bytes
MOST_VALUES = 10_000  # with every alias written out; a spec has a hundred or two
DEEPEST = 40

# what the YAML library says -> what a reader of the spec needs to hear
_WORDS = (
    (
        "mapping values are not allowed",
        "no key can stand here; check the indentation, or put quotes around text that holds ': '",
    ),
    ("'\\t'", "a tab indents the line; indent with spaces"),
    ("could not find expected ':'", "a key without ':' after it"),
    ("expected <block end>", "the indentation does not fit the lines above"),
    ("expected ',' or", "a comma or a closing bracket is missing"),
    ("unexpected end of stream", "a quotation mark is not closed"),
    ("expected the node content", "a value is missing or a bracket is not closed"),
    ("expected a single document", "a second document begins; a file holds one"),
    ("undefined alias", "an alias (*name) has no anchor (&name) above it"),
    ("cannot start any token", "a value cannot begin with this character; put quotes around it"),
)


class _Resolver(VersionedResolver):
    """What a plain scalar is, by YAML 1.2 whatever a `%YAML` line says: there, 1:30 is text, and so is `yes`."""

    processing_version = (1, 2)


def read_file(path: Path, mistakes: list[Mistake]) -> Node:
    """The top-level mapping of a YAML file as nodes.

    Duplicate keys and odd tags are added to `mistakes` and reading goes on; what leaves nothing to go on with
    (no file, no YAML, no mapping) is raised as a SpecError.
    """
    file = str(path)

    def refuse(message: str, line: int | None = None) -> SpecError:
        return SpecError([Mistake(Origin(file, line), "", message)])

    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        siblings = [str(path.with_name(other.name)) for other in path.parent.glob("*.yaml")]
        hint = nearest(file, siblings) or "give the path of a YAML file"
        raise refuse(f"there is no such file; {hint}") from None
    except IsADirectoryError:
        raise refuse("is a folder; give the path of a YAML file") from None
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror or error}") from None
    if len(data) > LARGEST_FILE:
        raise refuse(f"is larger than {LARGEST_FILE // 1024} KiB, so it is no spec; give the path of a YAML file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse("is not UTF-8 text; save the file as UTF-8", data[: error.start].count(b"\n") + 1) from None
    node = parse(text, file, mistakes)
    if not isinstance(node.value, dict):
        found = "the file is empty" if node.value is None else "the file does not hold a mapping"
        message = f"{found}; write 'key: value' lines at its top level"
        raise SpecError([*mistakes, Mistake(node.origin, "", message)])
    return node


def parse(text: str, file: str, mistakes: list[Mistake]) -> Node:
    """YAML text as nodes; a SpecError for bad syntax, other mistakes as in `read_file`."""
    lines = max(1, len(text.splitlines()))
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Resolver
    yaml.composer.warn_double_anchors = False  # a name may be used again
    yaml.max_depth = DEEPEST

    def refuse(line: int, message: str) -> SpecError:
        return SpecError([Mistake(Origin(file, line), "", message)])

    try:
        root = yaml.compose(text)
        if root is None:
            return Node(None, Origin(file, 1))
        return _Reader(yaml, file, mistakes).node(root, root.start_mark.line + 1, "", ())
    except MaxDepthExceededError as error:
        raise refuse(error.problem_mark.line + 1, f"is nested more than {DEEPEST} levels deep") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line + 1, lines) if mark else 1
        problem = f"{error.context}, {error.problem}" if error.context else str(error.problem)
        words = next((words for jargon, words in _WORDS if jargon in problem), problem)
        begun = error.context_mark.line + 1 if error.context_mark else line
        since = f" (what is unfinished begins on line {begun})" if begun < line else ""
        raise refuse(line, f"not valid YAML: {words}{since}") from None
    except ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise refuse(line, "holds a control character or half of one; remove it") from None
    except (ValueError, OverflowError):  # an odd directive, or an escape beyond Unicode
        raise refuse(1, "not valid YAML: a '%' line or an escape cannot be read") from None


class _Reader:
    """Turns the YAML library's nodes into ours."""

    def __init__(self, yaml: YAML, file: str, mistakes: list[Mistake]) -> None:
        self.yaml, self.file, self.mistakes = yaml, file, mistakes
        self.values = 0

    def wrong(self, line: int, place: str, message: str) -> None:
        self.mistakes.append(Mistake(Origin(self.file, line), place, message))

    def node(self, raw: Any, line: int, place: str, around: tuple[int, ...]) -> Node:
        """`line` is where the value's key or item stands; `around` are the nodes that enclose it."""
        origin = Origin(self.file, line)
        if id(raw) in around:
            self.wrong(line, place, "an alias that contains itself; write the value out")
            return Node(None, origin)
        around = (*around, id(raw))
        self.values += 1
        if self.values > MOST_VALUES:
            message = f"holds more than {MOST_VALUES:,} values, each alias (*name) written out"
            raise SpecError([Mistake(origin, "", f"{message}; a spec has a few hundred")])
        if len(around) > DEEPEST:
            raise SpecError([Mistake(origin, "", f"is nested more than {DEEPEST} levels deep through its aliases")])
        if isinstance(raw, MappingNode) and raw.tag == _TAG + "map":
            return Node(self.mapping(raw, place, around), origin)
        if isinstance(raw, SequenceNode) and raw.tag == _TAG + "seq":
            items = [
                self.node(item, item.start_mark.line + 1, f"{place}[{index}]", around)
                for index, item in enumerate(raw.value)
            ]
            return Node(items, origin)
        if isinstance(raw, ScalarNode) and raw.tag in _SCALARS:
            return Node(self.scalar(raw, place), origin)
        self.wrong(line, place, f"the tag '{str(raw.tag).replace(_TAG, '!!')}' has no meaning here; remove it")
        return Node(None, origin)

    def scalar(self, raw: ScalarNode, place: str) -> Any:
        line, kind = raw.start_mark.line + 1, str(raw.tag).replace(_TAG, "")
        if raw.tag in _TEXT:
            return self.text(raw.value, line, place)
        try:
            value = getattr(self.yaml.constructor, f"construct_yaml_{kind}")(raw)
        except (ValueError, KeyError, IndexError):  # thousands of digits, or `!!int abc`
            value = None
        if (value is None and kind != "null") or (kind == "int" and abs(value) >= 2**63):
            self.wrong(line, place, f"'{raw.value[:40]}' cannot be read as {kind}; numbers have 18 digits at most")
            return None
        return value

    def text(self, value: str, line: int, place: str) -> str | None:
        """Text with the pairs of escapes of JSON (\\ud83d\\ude00) joined; halves and control characters are refused."""
        try:
            value = value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.wrong(line, place, "holds half a character (a lone surrogate, \\ud800 to \\udfff); remove it")
            return None
        if any(unicodedata.category(letter) == "Cc" and letter not in "\n\t" for letter in value):
            self.wrong(line, place, "holds a control character; remove it")
            return None
        return value

    def mapping(self, raw: MappingNode, place: str, around: tuple[int, ...]) -> dict[Any, Node]:
        merged: dict[Any, Node] = {}
        written: dict[Any, Node] = {}
        for key_node, value_node in raw.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                for values in self.merged(value_node, line, place, around):
                    merged = {**values, **merged}  # the first of several wins
                continue
            if not (isinstance(key_node, ScalarNode) and key_node.tag in _SCALARS):
                self.wrong(line, place, "a key must be plain text")
                continue
            told = len(self.mistakes)
            key = self.scalar(key_node, place)
            if len(self.mistakes) > told:
                continue
            if key in written:
                first = written[key].origin.line
                self.wrong(line, place, f"the key '{key}' is written twice, first on line {first}; keep one")
                continue
            written[key] = self.node(value_node, line, f"{place}.{key}" if place else str(key), around)
        return {**merged, **written}

    def merged(self, raw: Any, line: int, place: str, around: tuple[int, ...]) -> Iterator[dict[Any, Node]]:
        """The mappings that `<<` brings in: an alias of one, or a list of aliases."""
        for source in raw.value if isinstance(raw, SequenceNode) else [raw]:
            node = self.node(source, line, place, around)
            if isinstance(node.value, dict):
                yield node.value
            else:
                self.wrong(line, place, "'<<' takes the alias of a mapping, such as <<: *defaults")
