"""Profiles: overlays that run a spec with other models, data and sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from reproducer.errors import nearest
from reproducer.spec.explain import explain
from reproducer.spec.origins import Mistake, Node, Origin, SpecError, dotted, wrap
from reproducer.spec.overlay import merge, put
from reproducer.spec.parse import read_file
from reproducer.spec.sections import CalibrationSpec, EvaluateSpec, RecoverySpec, SearchSpec, Section
from reproducer.spec.values import Ratio, Text, mistake, said


def _substitute(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("name"), str)):
        return value
    raise mistake(f"should be text or a mapping with a 'name', not {said(value)}; a name of digits needs quotes")


Substitute = Annotated[Any, AfterValidator(_substitute)]
"""A name, or an entry with a name and other keys, which are merged over those of the entry that it replaces."""


class MapSpec(Section):
    """Names (and structure ratios) of a spec, and what takes their place."""

    models: dict[Text, Substitute] = Field(default_factory=dict)
    recovery: dict[Text, Substitute] = Field(default_factory=dict)
    datasets: dict[Text, Text] = Field(default_factory=dict)
    tasks: dict[Text, Text] = Field(default_factory=dict)
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
        if (folder / f"{profile}.yaml").is_file():
            return folder / f"{profile}.yaml"
    names = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    hint = nearest(profile, names) or f"no profiles in {' or '.join(map(str, folders))}; give the path of one"
    raise SpecError([Mistake(Origin("--profile"), "", f"unknown profile '{profile}'; {hint}")])


def apply_profile(root: Node, path: Path, mistakes: list[Mistake], stands_for: dict[str, str]) -> Node:
    """The spec `root` under the profile in file `path`: mapped, then overlaid.

    Adds the profile's own mistakes to `mistakes`, and to `stands_for` the models that it puts in the place of others.
    """
    profile = read_file(path, mistakes)
    try:
        ProfileSpec.model_validate(profile.plain())
    except ValidationError as error:
        mistakes += explain(error, ProfileSpec, profile)
        return root
    tables = {kind: node.value for kind, node in (profile.get("map") or wrap({}, profile.origin)).value.items()}
    for old, new in tables.get("models", {}).items():
        stands_for.setdefault((new.get("name") or new).value, stands_for.get(old, old))
    root = _map_names(root, tables, profile.origin)
    root = _map_ratios(root, tables.get("structure_ratio", {}), path.stem, mistakes)
    return merge(root, profile.get("set") or wrap({}, profile.origin))


def _swap(node: Node, table: dict[Any, Node]) -> Node:
    """`node` (a name, an entry with a name, or a list of either) with the table's values in place of its keys.

    Entries of a list that the table makes equal become one, so that seven tasks may map to one small one.
    """
    if isinstance(node.value, dict):
        new = _swap(node.value["name"], table) if "name" in node.value else None
        if new is None or new is node.value["name"]:
            return node
        return merge(node, new if isinstance(new.value, dict) else Node({"name": new}, new.origin))
    if not isinstance(node.value, list):
        return table.get(node.value, node)
    kept: list[Node] = []
    changed: list[Any] = []
    for item in node.value:
        new = _swap(item, table)
        value = new.plain()
        if value != item.plain():
            changed.append(value)
        if value not in changed or value not in [other.plain() for other in kept]:
            kept.append(new)
    return Node(kept, node.origin)


def _map_names(root: Node, tables: dict[str, dict[Any, Node]], origin: Origin) -> Node:
    """Models, recoveries, data sets and tasks by name, those that the spec leaves to the defaults included."""
    names = {old: node.get("name") or node for old, node in tables.get("models", {}).items()}
    tables = {**tables, "names": names}
    for kind in ("models", "recovery"):
        if entries := root.get(kind):
            root = put(root, [kind], _swap(entries, tables.get(kind, {})))
    for place, kind, default in _slots(root):
        node = root.get(*place) or wrap(default, origin)
        new = _swap(node, tables.get(kind, {}))
        if new.plain() != node.plain():
            root = put(root, place, new)
    return root


def _slots(root: Node) -> Iterator[tuple[list[str | int], str, Any]]:
    """Every place of data sets or tasks, with what stands there when nothing is written (None: nothing)."""

    def usable(section: str) -> bool:
        return section not in root.value or isinstance(root.value[section].value, dict)

    if usable("calibration"):
        yield ["calibration", "dataset"], "datasets", CalibrationSpec().dataset
    if usable("search"):
        yield ["search", "texts"], "datasets", SearchSpec().texts
    if usable("evaluate"):
        yield ["evaluate", "perplexity"], "datasets", EvaluateSpec().perplexity
        yield ["evaluate", "tasks"], "tasks", EvaluateSpec().tasks
    for place, method in _entries(root, "methods"):
        for section, key in (("calibration", "dataset"), ("search", "texts")):
            if method.get(section, key):
                yield [*place, section, key], "datasets", None
        if method.get("search", "transfer", "model"):
            yield [*place, "search", "transfer", "model"], "names", None
    for place, recovery in _entries(root, "recovery"):
        if (recovery.get("name") or recovery).value == "lora":
            yield [*place, "dataset"], "datasets", RecoverySpec(name="lora").dataset


def _entries(root: Node, section: str) -> Iterator[tuple[list[str | int], Node]]:
    node = root.get(section)
    for index, entry in enumerate(node.items() if node else []):
        yield [section, index], entry


def _map_ratios(root: Node, table: dict[Any, Node], profile: str, mistakes: list[Mistake]) -> Node:
    """`structure_ratio` of the spec and of its methods as the `ratio` that the table gives; all of a list, or none."""
    places: list[list[str | int]] = [["prune"], ["search", "transfer"]]
    places += [[*place, "prune"] for kind in ("models", "methods") for place, _ in _entries(root, kind)]
    places += [[*place, "search", "transfer"] for place, _ in _entries(root, "methods")]
    for place in places:
        old = root.get(*place, "structure_ratio")
        if old is None or old.value is None or root.get(*place, "ratio"):
            continue
        unknown = [str(item.plain()) for item in old.items() if _swap(item, table) is item]
        if old.items() and not unknown:
            root = put(root, [*place, "ratio"], _swap(old, table))
        elif len(unknown) < len(old.items()):
            message = f"profile '{profile}' has a ratio for others but not for {', '.join(unknown)}"
            hint = "; add it to the profile's map.structure_ratio"
            mistakes.append(Mistake(old.origin, dotted([*place, "structure_ratio"]), message + hint))
    return root
