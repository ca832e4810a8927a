"""A spec from a YAML file, or a document of several that are reported together, under profiles and `--set`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from reproducer.spec.explain import explain
from reproducer.spec.models import Source, Spec
from reproducer.spec.origins import Mistake, Node, Origin, SpecError, wrap
from reproducer.spec.overlay import merge, put
from reproducer.spec.parse import parse, read_file
from reproducer.spec.profiles import apply_profile, find_profile
from reproducer.spec.sections import Section
from reproducer.spec.values import Slug, Text

_SET = Origin("--set")


class IncludeSpec(Section):
    """A spec file, by its path from the document's folder, and what is `set` over it before any profile."""

    spec: Text
    set: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _bare_path(cls, data: Any) -> Any:
        return {"spec": data} if isinstance(data, str) else data


class DocumentSpec(Section):
    """The keys of a document's file. One spec may be included several times, set otherwise."""

    name: Slug
    title: str = ""
    include: Annotated[list[IncludeSpec], Field(min_length=1)]


@dataclass(frozen=True)
class Document:
    """A document as loaded: its specs, in the order in which it includes them."""

    name: str
    title: str
    specs: tuple[Spec, ...]


def load(path: str | Path, profiles: Sequence[str | Path] = (), overrides: Sequence[str] = ()) -> Spec | Document:
    """Read a spec, or a document that includes several (it has the key `include`).

    Args:
        path, profiles, overrides: as for `load_spec`; the last two hold for each spec of a document.

    Raises:
        SpecError: as for `load_spec`.
    """
    path, mistakes = Path(path), list[Mistake]()
    root = read_file(path, mistakes)
    if root.get("include") is None:
        return load_spec(path, profiles, overrides)
    try:
        document = DocumentSpec.model_validate(root.plain())
    except ValidationError as error:
        mistakes += explain(error, DocumentSpec, root.locate)
    if mistakes:
        raise SpecError(mistakes)
    specs = []
    for entry, node in zip(document.include, root.value["include"].items(), strict=True):
        file = path.parent / entry.spec
        if not file.is_file():
            raise SpecError([Mistake(node.origin, "include", f"there is no file {file}")])
        specs.append(load_spec(file, profiles, overrides, node.get("set")))
    return Document(document.name, document.title, tuple(specs))


def load_spec(
    path: str | Path,
    profiles: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    over: Node | None = None,
) -> Spec:
    """Read and validate a spec.

    Args:
        path: the YAML file.
        profiles: names (`profiles/NAME.yaml` beside the spec, else `specs/profiles/NAME.yaml` below the working
            directory) or paths of overlays, applied in order, each its `map` and then its `set`.
        overrides: `dotted.key=value` with a YAML value, applied last and in order; `methods.0.label=x` for entries
            of a list. Mappings are merged, other values replaced.
        over: merged over the file before the profiles, from a document that includes it.

    Returns:
        the validated spec, which remembers where each value was written (`spec.where`).

    Raises:
        SpecError: every mistake that was found, a line each with its file and line.
    """
    path = Path(path)
    mistakes: list[Mistake] = []
    root = read_file(path, mistakes)
    if over is not None:
        root = merge(root, over)
    files: list[Path] = []
    maps: list[dict[str, dict[str, str]]] = []
    for profile in profiles:
        try:
            files.append(find_profile(profile, path))
            root, names = apply_profile(root, files[-1], mistakes)
            maps.append(names)
        except SpecError as error:
            mistakes += error.mistakes
    for override in overrides:
        try:
            root = _set(root, override)
        except SpecError as error:
            mistakes += error.mistakes
    try:
        spec = Spec.model_validate(root.plain())
    except ValidationError as error:
        told = {(mistake.origin, mistake.place) for mistake in mistakes}
        mistakes += [found for found in explain(error, Spec, root.locate) if (found.origin, found.place) not in told]
    if mistakes:
        raise SpecError(mistakes)
    spec._source = Source(root, str(path), tuple(file.stem for file in files), maps)
    return spec


def _set(root: Node, override: str) -> Node:
    """One `dotted.key=value` applied; SpecError where it cannot be."""
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[^\s.]+(\.[^\s.]+){0,20}", key.strip()) or not key.isprintable():
        message = f"{override[:80]!r} is not dotted.key=value, such as prune.ratio=0.3 or methods.0.label=mine"
        raise SpecError([Mistake(_SET, "", message)])
    problems: list[Mistake] = []
    try:
        value = wrap(parse(text, str(_SET), problems).plain(), _SET)
    except SpecError as error:
        problems += error.mistakes
    if problems:
        # a line within an option means nothing to its reader
        raise SpecError([Mistake(_SET, key.strip(), mistake.message) for mistake in problems])
    return put(root, key.strip().split("."), value)
