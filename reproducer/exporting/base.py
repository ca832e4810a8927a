"""What a model card says of the base model: its name, where it is on the hub, and its licence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reproducer.models.catalogue import HUB_ID, Entry, Hub
from reproducer.models.load import LOCATION, locate
from reproducer.reporting.card import Base


def base_of(model: Any) -> Base:
    """The base as a loaded model's configuration knows it."""
    name = str(getattr(model.config, "_name_or_path", ""))
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
    known = described(entry.label, locate(directory) if (directory / LOCATION).is_file() else directory)
    hub_id = entry.source.id if isinstance(entry.source, Hub) else entry.hub_id or known.hub_id
    revision = entry.source.revision if isinstance(entry.source, Hub) else None
    return Base(known.label, hub_id, entry.license or known.license, str(entry.source), revision, entry.notes)


def described(label: str, folder: Path) -> Base:
    """The base that lies in a folder, as the folder's own model card has it."""
    from huggingface_hub import ModelCard

    try:
        found = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data
    except Exception:  # none, or none that can be read; either way it says nothing
        return Base(label)
    hub_id = found.base_model if isinstance(found.base_model, str) else None
    return Base(label, hub_id, found.license if isinstance(found.license, str) else None)
