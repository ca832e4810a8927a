"""YAML text to nodes: what `yaml.safe_load` would give, with a line for every value and plain words for mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from reproducer.errors import nearest
from reproducer.spec.origins import Mistake, Node, Origin, SpecError

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + kind for kind in ("str", "int", "float", "bool", "null")}
_MERGE = _TAG + "merge"

# what PyYAML says -> what a reader of the spec needs to hear
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


class _Loader(yaml.SafeLoader):
    """SafeLoader for numbers, truth values and null; everything else is text."""


# PyYAML reads 1e-4 as text (YAML 1.1 asks for a point and a signed exponent) and 2024-01-01 as a date
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _SCALARS | {_MERGE}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _TAG + "float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_file(path: Path, mistakes: list[Mistake]) -> Node:
    """The top-level mapping of a YAML file as nodes.

    Duplicate keys and odd tags are added to `mistakes` and reading goes on; what leaves nothing to go on with
    (no file, no YAML, no mapping) is raised as a SpecError.
    """
    file = str(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        siblings = [str(path.with_name(other.name)) for other in path.parent.glob("*.yaml")]
        hint = nearest(file, siblings) or "give the path of a YAML file"
        raise SpecError([Mistake(Origin(file), "", f"there is no such file; {hint}")]) from None
    except IsADirectoryError:
        raise SpecError([Mistake(Origin(file), "", "is a folder; give the path of a YAML file")]) from None
    except OSError as error:
        raise SpecError([Mistake(Origin(file), "", f"cannot be read: {error.strerror or error}")]) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SpecError([Mistake(Origin(file, line), "", "is not UTF-8 text; save the file as UTF-8")]) from None
    node = parse(text, file, mistakes)
    if not isinstance(node.value, dict):
        found = "the file is empty" if node.value is None else "the file does not hold a mapping"
        message = f"{found}; write 'key: value' lines at its top level"
        raise SpecError([*mistakes, Mistake(node.origin, "", message)])
    return node


def parse(text: str, file: str, mistakes: list[Mistake]) -> Node:
    """YAML text as nodes; a SpecError for bad syntax, other mistakes as in `read_file`."""
    lines = max(1, len(text.splitlines()))
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return Node(None, Origin(file, 1))
        return _Reader(loader, file, mistakes).node(root, root.start_mark.line + 1, "", frozenset())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line + 1, lines) if mark else 1
        problem = f"{error.context}, {error.problem}" if error.context else str(error.problem)
        words = next((words for jargon, words in _WORDS if jargon in problem), problem)
        begun = error.context_mark.line + 1 if error.context_mark else line
        since = f" (what is unfinished begins on line {begun})" if begun < line else ""
        raise SpecError([Mistake(Origin(file, line), "", f"not valid YAML: {words}{since}")]) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise SpecError([Mistake(Origin(file, line), "", "holds a control character; remove it")]) from None
    except RecursionError:
        raise SpecError([Mistake(Origin(file, 1), "", "is nested too deeply to be read")]) from None


class _Reader:
    """Turns the YAML library's nodes into ours."""

    def __init__(self, loader: _Loader, file: str, mistakes: list[Mistake]) -> None:
        self.loader, self.file, self.mistakes = loader, file, mistakes

    def wrong(self, line: int, place: str, message: str) -> None:
        self.mistakes.append(Mistake(Origin(self.file, line), place, message))

    def node(self, raw: yaml.Node, line: int, place: str, around: frozenset[int]) -> Node:
        """`line` is where the value's key or item stands; `around` are the nodes that enclose it."""
        origin = Origin(self.file, line)
        if id(raw) in around:
            self.wrong(line, place, "an alias that contains itself; write the value out")
            return Node(None, origin)
        around = around | {id(raw)}
        if isinstance(raw, yaml.MappingNode) and raw.tag == _TAG + "map":
            return Node(self.mapping(raw, place, around), origin)
        if isinstance(raw, yaml.SequenceNode) and raw.tag == _TAG + "seq":
            items = [
                self.node(item, item.start_mark.line + 1, f"{place}[{index}]", around)
                for index, item in enumerate(raw.value)
            ]
            return Node(items, origin)
        if isinstance(raw, yaml.ScalarNode) and raw.tag in _SCALARS:
            return Node(self.scalar(raw, place), origin)
        self.wrong(line, place, f"the tag '{raw.tag.replace(_TAG, '!!')}' has no meaning here; remove it")
        return Node(None, origin)

    def scalar(self, raw: yaml.ScalarNode, place: str) -> Any:
        try:
            return self.loader.construct_object(raw)
        except (ValueError, OverflowError, KeyError):  # a number too long, or `!!int abc`
            self.wrong(
                raw.start_mark.line + 1, place, f"'{raw.value[:40]}' cannot be read as {raw.tag.replace(_TAG, '')}"
            )
            return None

    def mapping(self, raw: yaml.MappingNode, place: str, around: frozenset[int]) -> dict[Any, Node]:
        merged: dict[Any, Node] = {}
        written: dict[Any, Node] = {}
        for key_node, value_node in raw.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                for values in self.merged(value_node, line, place, around):
                    merged = {**values, **merged}  # the first of several wins
                continue
            if not (isinstance(key_node, yaml.ScalarNode) and key_node.tag in _SCALARS):
                self.wrong(line, place, "a key must be plain text")
                continue
            key = self.scalar(key_node, place)
            if key in written:
                first = written[key].origin.line
                self.wrong(line, place, f"the key '{key}' is written twice, first on line {first}; keep one")
                continue
            written[key] = self.node(value_node, line, f"{place}.{key}" if place else str(key), around)
        return {**merged, **written}

    def merged(self, raw: yaml.Node, line: int, place: str, around: frozenset[int]) -> Iterator[dict[Any, Node]]:
        """The mappings that `<<` brings in: an alias of one, or a list of aliases."""
        for source in raw.value if isinstance(raw, yaml.SequenceNode) else [raw]:
            node = self.node(source, line, place, around)
            if isinstance(node.value, dict):
                yield node.value
            else:
                self.wrong(line, place, "'<<' takes the alias of a mapping, such as <<: *defaults")
