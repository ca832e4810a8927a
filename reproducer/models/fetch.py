"""Bringing a model to where a stage can load it, and telling later whether it is still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reproducer.errors import UserError
from reproducer.models.catalogue import Drawn, Entry, Folder, Hub, Package, Random, Source
from reproducer.models.quantised import refuse_quantised_folder
from reproducer.models.weights import refuse_pickles, stored_tensors

Say = Callable[[str], None]
KINDS: dict[str, type[Source]] = {"package": Package, "hub": Hub, "folder": Folder, "random": Random, "drawn": Drawn}
# Nothing of a repository but configs, safetensors, tokenizers and the card that tells the licence; no second copy of
# the weights in another layout.
WANTED = ["*.json", "*.safetensors", "*.model", "*.jinja", "tokenizer*", "merges.txt", "vocab.txt", "README.md"]
UNWANTED = ["*/*", "consolidated*", "*.py", "*.bin", "*.pth", "*.pt"]


def recipe(entry: Entry) -> dict[str, Any]:
    """The JSON object that determines an entry's weights (of a hub model without a revision: all that is known)."""
    kind = next(name for name, cls in KINDS.items() if isinstance(entry.source, cls))
    return {"source": kind, **asdict(entry.source)}


def fetch(recipe: Mapping[str, Any], directory: Path, say: Say) -> None:
    """Fill `directory` with what `load_model` needs: the model's files, location.json for one that stays elsewhere, or
    a seed for one that is drawn when it is loaded.

    Args:
        recipe: an entry's, from `recipe`.
        directory: exists and is empty.
        say: takes lines for the user.

    Raises:
        UserError: the model cannot be had or is none; says how to provide it.
        OSError: the disk is full.
    """
    match source(recipe):
        case Package() as package:
            from reproducer.models.package import write_package

            write_package(package, directory, say)
        case Hub() as hub:
            folder = _snapshot(hub, say)
            _point(directory, folder, revision=folder.name)
        case Folder(path):
            _point(directory, Path(path), fingerprint=_digest(Path(path)))
        case Random(config, seed):
            from reproducer.models.random_weights import write_random

            write_random(config, seed, directory)
        case Drawn(config, seed):
            from reproducer.models.random_weights import write_seed

            write_seed(config, seed, directory)


def fingerprints(recipe: Mapping[str, Any]) -> dict[str, str]:
    """What a recipe's model outside of the store is like today: {source: digest or revision}; cheap, no network."""
    match source(recipe):
        case Folder(path):
            return {f"model folder {path}": _digest(Path(path))}
        case _:  # of a hub model location.json holds the commit, and a commit never changes
            return {}


def source(recipe: Mapping[str, Any]) -> Source:
    """The source that a recipe was made of."""
    fields = {name: value for name, value in recipe.items() if name != "source"}
    return KINDS[recipe["source"]](**fields)


def _point(directory: Path, folder: Path, **facts: str) -> None:
    """Write where the model lies. What tells its contents stands there too, so that it joins the artifact's digest."""
    from reproducer.models.load import LOCATION, read_config

    read_config(folder)
    refuse_quantised_folder(folder, stored_tensors(folder))
    text = json.dumps({"path": str(folder), **facts}, indent=1)
    (directory / LOCATION).write_text(text, encoding="utf-8")


def _snapshot(hub: Hub, say: Say) -> Path:
    """The hub's files in the user's own cache, its folder being named by the commit."""
    from huggingface_hub import list_repo_files, snapshot_download

    from reproducer.models.load import read_config

    say(f"fetching {hub} (what the cache of huggingface_hub lacks)")
    try:
        path = snapshot_download(hub.id, revision=hub.revision, allow_patterns=["*config.json"])
        read_config(Path(path))  # refuses what cannot be pruned before its weights are fetched
        path = snapshot_download(hub.id, revision=hub.revision, allow_patterns=WANTED, ignore_patterns=UNWANTED)
        folder = Path(path)
        names = [file.name for file in folder.iterdir()]
        if not any(name.endswith(".safetensors") for name in names):
            names = list_repo_files(hub.id, revision=folder.name)
    except Exception as error:  # connection libraries below the hub's have exceptions of their own
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise _unavailable(hub, error) from error
    if not any(name.endswith(".safetensors") for name in names):
        hint = (
            f"The hub may have a conversion in a pull request of {hub.id} (`Adding safetensors variant`): "
            f"name the model {hub.id}@refs/pr/NUMBER. "
        )
        refuse_pickles(f"hub {hub.id}", names, hint)
    return folder


def _unavailable(hub: Hub, error: Exception) -> UserError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"https://huggingface.co/{hub.id}"
    otherwise = (
        "Or provide it: name a local folder in the spec, or fill the cache where there is internet "
        f"(`hf download {hub.id}`), copy it and set HF_HOME to it and HF_HUB_OFFLINE=1."
    )
    if isinstance(error, GatedRepoError):
        hint = f"Accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN. {otherwise}"
        return UserError(f"the hub model {hub.id} is gated: it is given only to users who accepted its terms", hint)
    if isinstance(error, RepositoryNotFoundError):
        hint = f"Check the name; if it is private, log in with `hf auth login` or set HF_TOKEN. {otherwise}"
        return UserError(f"the hub has no model {hub.id}, or none that you may see", hint)
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"the hub model {hub.id} has no revision '{hub.revision}'", f"See {page}/commits/main.")
    reason = str(error).strip().split("\n")[0]
    return UserError(f"the hub model {hub.id} cannot be fetched: {type(error).__name__}: {reason}", otherwise)


def _digest(folder: Path) -> str:
    """A digest of a model folder, without reading the weights: of a safetensors file its header, size and time."""
    if not folder.is_dir():
        return "absent"
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        status = path.stat()
        total.update(f"{path.name}\0{status.st_size}\0".encode())
        with path.open("rb") as file:
            if path.suffix == ".safetensors":
                length = int.from_bytes(file.read(8), "little")
                total.update(file.read(min(length, status.st_size)) + str(status.st_mtime_ns).encode())
            elif path.suffix in (".json", ".model", ".jinja", ".txt"):
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
