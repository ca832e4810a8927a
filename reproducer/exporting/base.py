"""What a model card says of the base model: its name, where it is on the hub, its licence, and earlier cuts.

The configuration of a model that was written here remembers them (`LINEAGE`): it is what later trainings keep.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reproducer.files import read_json
from reproducer.models.catalogue import HUB_ID, Entry, Hub
from reproducer.models.load import locate
from reproducer.reporting.card import Base

LINEAGE = "pruned_from"


def base_of(model: Any) -> Base:
    """The base as a loaded model's configuration knows it."""
    name = str(getattr(model.config, "_name_or_path", ""))
    if (lineage := getattr(model.config, LINEAGE, None)) is not None:
        return _of_lineage(lineage)
    if name and Path(name).is_dir():
        return described(Path(name).name, Path(name))
    if HUB_ID.fullmatch(name):
        return Base(label=name.split("/")[1], hub_id=name)
    return Base(label=type(model).__name__)


def base_of_entry(entry: Entry, directory: Path) -> Base:
    """The base as the catalogue and its files know it.

    Args:
        directory: what `fetch` filled.
    """
    known = described(entry.label, locate(directory))
    hub_id = entry.source.id if isinstance(entry.source, Hub) else entry.hub_id or known.hub_id
    revision = entry.source.revision if isinstance(entry.source, Hub) else None
    license = entry.license or known.license
    return Base(known.label, hub_id, license, str(entry.source), revision, entry.notes, known.cuts)


def described(label: str, folder: Path) -> Base:
    """The base that lies in a folder, as the folder's own configuration or model card has it."""
    from huggingface_hub import ModelCard

    if (lineage := (read_json(folder / "config.json") or {}).get(LINEAGE)) is not None:
        return _of_lineage(lineage)

    try:
        found = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data
    except Exception:  # none, or none that can be read; either way it says nothing
        return Base(label)
    hub_id = found.base_model if isinstance(found.base_model, str) else None
    return Base(label, hub_id, found.license if isinstance(found.license, str) else None)


def lineage_of(base: Base, cut: str | None) -> dict[str, Any]:
    """What a configuration remembers of its model: the first base, and all cuts, the newest (None: there is none) last.

    None of it where nothing was cut.
    """
    cuts = [*base.cuts, *([cut] if cut else [])]
    return {"label": base.label, "hub_id": base.hub_id, "license": base.license, "cuts": cuts} if cuts else {}


def _of_lineage(lineage: Any) -> Base:
    try:
        return Base(str(lineage["label"]), lineage["hub_id"], lineage["license"], cuts=tuple(map(str, lineage["cuts"])))
    except (TypeError, KeyError):
        return Base("a pruned model")
