"""A document: a spec that includes others, which share their stages and are reported together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from reproducer.spec.explain import explain
from reproducer.spec.load import load_spec
from reproducer.spec.models import Spec
from reproducer.spec.origins import Mistake, SpecError
from reproducer.spec.parse import read_file
from reproducer.spec.sections import Section
from reproducer.spec.values import Slug, Text


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
        found = DocumentSpec.model_validate(root.plain())
    except ValidationError as error:
        mistakes += explain(error, DocumentSpec, root.locate)
    if mistakes:
        raise SpecError(mistakes, (str(path),))
    specs = []
    for entry, node in zip(found.include, root.value["include"].items(), strict=True):
        file = path.parent / entry.spec
        if not file.is_file():
            raise SpecError([Mistake(node.origin, "include", f"there is no file {file}")])
        specs.append(load_spec(file, profiles, overrides, node.get("set")))
    return Document(found.name, found.title, tuple(specs))
