"""Merging one tree of values over another, and setting a value at a dotted key."""

from __future__ import annotations

from collections.abc import Sequence

from reproducer.spec.origins import Mistake, Node, SpecError, dotted, wrap
from reproducer.spec.sections import EXCLUSIVE

_NAMED = ("models", "methods", "recovery")  # lists in which a bare name may stand for a mapping


def merge(base: Node, over: Node) -> Node:
    """`over` laid over `base`: mappings are merged at every depth, anything else is replaced.

    Of `ratio` and `structure_ratio`, the one that `over` gives takes the place of the other.
    """
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    given = {key for key, node in over.value.items() if node.value is not None}
    merged = {key: node for key, node in base.value.items() if EXCLUSIVE.get(key) not in given}
    for key, node in over.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, base.origin)


def put(node: Node, path: Sequence[str | int], value: Node, done: tuple[str | int, ...] = ()) -> Node:
    """`node` with `value` merged in at `path`; an index is an int or a text of digits.

    A value that stands alone counts as a list of one, and a bare name in a list as a mapping with that name.
    A SpecError with `value`'s origin says where a path leads nowhere.
    """

    def refuse(message: str) -> SpecError:
        return SpecError([Mistake(value.origin, dotted(done), message)])

    if not path:
        return merge(node, value)
    part, rest = path[0], path[1:]
    if isinstance(part, int) or part.isdecimal():
        if node.value is None:
            raise refuse("is not written in the spec, so it has no entries; set the whole list")
        items, index = node.items(), int(part)
        if index >= len(items):
            raise refuse(f"has no entry {index}; the last is {len(items) - 1}")
        changed = put(items[index], rest, value, (*done, index))
        return Node([*items[:index], changed, *items[index + 1 :]], node.origin)
    if isinstance(node.value, list) or (len(done) == 1 and done[0] in _NAMED and node.value is not None):
        raise refuse(f"is a list; say which entry, such as {dotted(done)}.0.{part}")
    if isinstance(node.value, str) and done and isinstance(done[-1], int):
        node = Node({"name": node}, node.origin)
    if node.value is None:
        node = Node({}, value.origin)
    if not isinstance(node.value, dict):
        raise refuse(f"holds a value, not keys, so '{part}' cannot be set in it")
    inner = put(node.value.get(part, wrap(None, value.origin)), rest, value, (*done, part))
    return merge(node, Node({part: inner}, value.origin))
