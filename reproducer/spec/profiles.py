"""Profiles: overlays that run a spec with other models, data and sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from reproducer.errors import nearest
from reproducer.spec.explain import explain
from reproducer.spec.origins import Mistake, Node, Origin, SpecError, dotted, wrap
from reproducer.spec.overlay import merge, put
from reproducer.spec.parse import read_file
from reproducer.spec.sections import Section
from reproducer.spec.values import Name, Ratio, mistake, said


def _substitute(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("name"), str)):
        return value
    raise mistake(f"should be text or a mapping with a 'name', not {said(value)}; a name of digits needs quotes")


Substitute = Annotated[Any, AfterValidator(_substitute)]
"""A name, or an entry with a name and other keys, which are merged over those of the entry that it replaces."""


class MapSpec(Section):
    """Names (and structure ratios) of a spec, and what takes their place."""

    models: dict[Name, Substitute] = Field(default_factory=dict)
    recovery: dict[Name, Substitute] = Field(default_factory=dict)
    datasets: dict[Name, Name] = Field(default_factory=dict)
    tasks: dict[Name, Name] = Field(default_factory=dict)
    structure_ratio: dict[Ratio, Ratio] = Field(default_factory=dict)


class ProfileSpec(Section):
    """A profile file: `map` is applied first, then `set` is merged over the spec."""

    description: str = ""
    map: MapSpec = Field(default_factory=MapSpec)
    set: dict[str, Any] = Field(default_factory=dict)


def find_profile(profile: str | Path, spec_path: Path) -> Path:
    """The file of a profile: a path, or a name in `profiles/` beside the spec or in `specs/profiles/` here.

    Raises:
        SpecError: nothing is there; the nearest name is proposed.
    """
    if isinstance(profile, Path) or "/" in profile or profile.endswith((".yaml", ".yml")):
        return Path(profile)
    folders = [spec_path.parent / "profiles", Path("specs/profiles")]
    for folder in folders:
        if os.path.isfile(folder / f"{profile}.yaml"):  # false too for a name that no file system takes
            return folder / f"{profile}.yaml"
    names = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    hint = nearest(profile, names) or f"no profiles in {' or '.join(map(str, folders))}; give the path of one"
    raise SpecError([Mistake(Origin("--profile"), "", f"unknown profile '{profile}'; {hint}")])


def apply_profile(root: Node, path: Path, mistakes: list[Mistake]) -> tuple[Node, dict[str, dict[str, str]]]:
    """The spec `root` under the profile in file `path`, mapped and then overlaid; and the names that it replaces.

    The names are {kind: {old: new}}. The profile's own mistakes are added to `mistakes`.
    """
    profile = read_file(path, mistakes)
    try:
        ProfileSpec.model_validate(profile.plain())
    except ValidationError as error:
        mistakes += explain(error, ProfileSpec, profile.locate)
        return root, {}
    tables = {kind: node.value for kind, node in (profile.get("map") or wrap({}, profile.origin)).value.items()}
    ratios = tables.pop("structure_ratio", {})
    names = {kind: {old: new.get("name") or new for old, new in table.items()} for kind, table in tables.items()}
    root = _map_names(root, tables, names)
    root = _map_ratios(root, ratios, path.stem, mistakes)
    root = merge(root, profile.get("set") or wrap({}, profile.origin))
    return root, {kind: {old: new.value for old, new in table.items()} for kind, table in names.items()}


# Where names stand, by their kind; `*` is any entry of a list.
NAMES = {
    "datasets": (
        "calibration.dataset",
        "methods.*.calibration.dataset",
        "search.texts",
        "methods.*.search.texts",
        "evaluate.perplexity",
        "evaluate.unseen",
        "models.*.tuned.dataset",
        "recovery.*.dataset",
    ),
    "models": ("search.transfer.model", "methods.*.search.transfer.model", "models.*.base"),
    "recovery": ("methods.*.recovery",),
    "tasks": ("evaluate.tasks",),
}
# Where entries with a name stand, whose other keys stay.
ENTRIES = {"recovery": ("recovery", "models.*.tuned"), "models": ("models",)}
# Where a `structure_ratio` may stand.
RATIOS = ("prune", "models.*.prune", "methods.*.prune", "search.transfer", "methods.*.search.transfer")


def _places(root: Node, pattern: str) -> Iterator[tuple[list[str | int], Node]]:
    """What the spec has at the places of a pattern, each with its place."""
    section, star, key = pattern.partition(".*.")
    entries: list[tuple[list[str | int], Node]] = [([], root)]
    if star:
        node = root.get(section)
        entries = [([section, index], entry) for index, entry in enumerate(node.items() if node else [])]
        for place, entry in list(entries):
            if isinstance(entry.value, list):  # recoveries one after the other
                entries += [([*place, index], part) for index, part in enumerate(entry.value)]
    path = (key or section).split(".")
    for place, entry in entries:
        if (node := entry.get(*path)) is not None:
            yield [*place, *path], node


def _map_names(root: Node, entries: dict[str, dict[Any, Node]], names: dict[str, dict[Any, Node]]) -> Node:
    """The spec with every name that it writes replaced; what an entry of the profile brings in stays as it is."""
    for tables, patterns in ((names, NAMES), (entries, ENTRIES)):
        for kind, places in patterns.items():
            for place, node in [found for pattern in places for found in _places(root, pattern)]:
                new = _swap(node, tables.get(kind, {}), keep=patterns is ENTRIES)
                if new.plain() != node.plain():
                    root = put(root, place, new)
    return root


def _swap(node: Node, table: dict[Any, Node], keep: bool = False, chain: bool = False) -> Node:
    """`node` (a name, an entry with a name, or a list of either) with the table's values in place of its keys.

    The other keys of an entry go with its name, or join those of the table's entry where `keep` says so. Entries of a
    list that the table makes equal become one, so that seven tasks may map to one small one; not those of a list within
    it (`chain`), which are recoveries one after the other.
    """
    if isinstance(node.value, dict):
        name = node.get("name")
        new = table.get(name.value) if name and isinstance(name.value, str) else None
        if new is None:
            return node
        return merge(node, new if isinstance(new.value, dict) else Node({"name": new}, new.origin)) if keep else new
    if not isinstance(node.value, list):
        return table.get(node.value, node)
    if chain:
        return Node([_swap(item, table, keep) for item in node.value], node.origin)
    kept: list[Node] = []
    changed: list[Any] = []
    for item in node.value:
        new = _swap(item, table, keep, chain=True)
        value = new.plain()
        if value != item.plain():
            changed.append(value)
        if value not in changed or value not in [other.plain() for other in kept]:
            kept.append(new)
    return Node(kept, node.origin)


def _map_ratios(root: Node, table: dict[Any, Node], profile: str, mistakes: list[Mistake]) -> Node:
    """Every `structure_ratio` of the spec as the `ratio` that the table gives; all of a list, or none."""
    for place, section in [found for pattern in RATIOS for found in _places(root, pattern)]:
        old = section.get("structure_ratio")
        if old is None or old.value is None or section.get("ratio"):
            continue
        unknown = [str(item.plain()) for item in old.items() if _swap(item, table) is item]
        if old.items() and not unknown:
            root = put(root, [*place, "ratio"], _swap(old, table))
        elif len(unknown) < len(old.items()):
            message = f"profile '{profile}' has a ratio for others but not for {', '.join(unknown)}"
            hint = "; add it to the profile's map.structure_ratio"
            mistakes.append(Mistake(old.origin, dotted([*place, "structure_ratio"]), message + hint))
    return root
