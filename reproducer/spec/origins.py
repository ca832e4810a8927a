"""Where each value of a spec was written: values with their file and line, and the error that names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from reproducer.errors import UserError

MOST_TOLD = 50
"""Mistakes that a message lists."""

Loc = Sequence[str | int]
"""A place in a spec, such as `("methods", 2, "name")`."""


class Origin(NamedTuple):
    """A file (or an option, such as `--set`, which has no lines) and a line counted from 1."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Node:
    """A YAML value that knows where it was written.

    Attributes:
        value: a scalar, a list of nodes, or a dict whose values are nodes.
        origin: the line of the key for a value in a mapping, the line of the item for one in a list.
    """

    value: Any
    origin: Origin

    def plain(self) -> Any:
        """The value alone, as `yaml.safe_load` would give it."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def get(self, *path: str | int) -> Node | None:
        """The node at `path`, or None where it is not written out."""
        node, _, rest = self._walk(path)
        return None if rest else node

    def items(self) -> list[Node]:
        """The entries of a list; a value that stands alone is a list of one."""
        return self.value if isinstance(self.value, list) else [self]

    def locate(self, loc: Loc) -> tuple[Origin, list[str | int]]:
        """The origin of the nearest written node that encloses `loc`, and `loc` as the author would write it.

        The two differ from `loc` where an entry stands alone instead of in a list (`ratio: 0.2` is `ratio[0]`)
        and where a bare name stands for a mapping (`- magnitude` is `methods[0].name`).
        """
        node, written, rest = self._walk(loc)
        return node.origin, [*written, *rest]

    def _walk(self, loc: Loc) -> tuple[Node, list[str | int], Loc]:
        """The nearest written node that encloses `loc`, the way to it as the author would write it, and the rest."""
        node, written = self, []
        for number, part in enumerate(loc):
            inside = node.value
            key: Any = None
            if isinstance(inside, dict):  # pydantic names numeric keys by their text
                key = part if part in inside else next((key for key in inside if str(key) == str(part)), None)
            elif isinstance(inside, list) and isinstance(part, int) and part < len(inside):
                key = part
            if key is not None:
                node = inside[key]
                written.append(part)
            elif isinstance(inside, list | dict):
                if isinstance(inside, list) or part != 0:
                    return node, written, loc[number:]
            elif part not in (0, "name"):
                return node, written, loc[number:]
        return node, written, ()


def wrap(value: Any, origin: Origin) -> Node:
    """Plain data as nodes that all have one origin."""
    if isinstance(value, dict):
        return Node({key: wrap(item, origin) for key, item in value.items()}, origin)
    if isinstance(value, list):
        return Node([wrap(item, origin) for item in value], origin)
    return Node(value, origin)


def dotted(loc: Iterable[str | int]) -> str:
    """`("methods", 2, "name")` as a reader writes it: `methods[2].name`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


class Mistake(NamedTuple):
    """One thing that is wrong in a spec; `place` is a dotted path, empty for the whole file."""

    origin: Origin
    place: str
    message: str

    def __str__(self) -> str:
        line = ": ".join(part for part in (str(self.origin), self.place, self.message) if part)
        return line.replace("\n", " ")  # of a text or a key that it quotes


class SpecError(UserError):
    """Everything that is wrong in a spec, a line each: `file:line: path.to.key: what is wrong; what is right`.

    Attributes:
        file: file (or option) of the first mistake.
        line: its line, counted from 1; None where there is none (an option, a missing file).
        mistakes: all of them, file by file and then by line; the message tells the first.
    """

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        files = list(dict.fromkeys(mistake.origin.file for mistake in mistakes))  # as they were read
        by_line = sorted(dict.fromkeys(mistakes), key=lambda mistake: mistake.origin.line or 0)
        self.mistakes = sorted(by_line, key=lambda mistake: files.index(mistake.origin.file))
        self.file, self.line = self.mistakes[0].origin
        more = len(self.mistakes) - MOST_TOLD
        told = [*map(str, self.mistakes[:MOST_TOLD]), *([f"… and {more} more"] if more > 0 else [])]
        super().__init__("\n".join(told))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.mistakes,)


class Gathered:
    """The mistakes of several parts of a spec, to be told together."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []

    @contextmanager
    def part(self) -> Iterator[None]:
        """Keeps a SpecError that is raised inside, and goes on behind it."""
        try:
            yield
        except SpecError as error:
            self.mistakes += error.mistakes

    def tell(self) -> None:
        """Raise what was kept, if anything."""
        if self.mistakes:
            raise SpecError(self.mistakes)
