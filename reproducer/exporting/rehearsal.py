"""Writing a model of the same kind before the work, so that what cannot be written is told then and not at its end."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproducer.models.catalogue import Entry, Folder, Hub
from reproducer.models.export.formats import writer

LAYERS = 2
SMALL = ("*.json", "*.model", "*.jinja", "tokenizer*", "merges.txt", "vocab.txt")
LARGE = ("*.index.json", "adapter_config.json")  # of weights, which are not there


def rehearse(entry: Entry, format: str, type: str | None) -> None:
    """Cut two layers of the model's kind, write them in a scratch folder, and read and run them where that is quick.

    The weights are random, the configuration and the tokenizer are the model's own. Models that the catalogue makes or
    packs are not rehearsed, nor those of the hub whose small files cannot be had now.

    Raises:
        UserError: what would fail when the model is written.
    """
    with tempfile.TemporaryDirectory() as name:
        shallow, written = Path(name, "shallow"), Path(name, "written")
        if _copied(entry, shallow):
            written.mkdir()
            _write(shallow, written, format, type)


def _copied(entry: Entry, shallow: Path) -> bool:
    """Whether a folder could be made of the model's small files, for a model of two layers without weights."""
    from huggingface_hub import snapshot_download

    from reproducer.models.load import read_config
    from reproducer.models.random_weights import SEED

    match entry.source:
        case Folder(path):
            folder = Path(path)
        case Hub(id, revision):
            try:
                folder = Path(snapshot_download(id, revision=revision, allow_patterns=[*SMALL]))
            except Exception:  # the stage that fetches the model says why
                return False
        case _:
            return False
    read_config(folder)  # says what is wrong with it
    shallow.mkdir()
    for file in {file for pattern in SMALL for file in folder.glob(pattern)}:
        if not any(file.match(pattern) for pattern in LARGE):
            shutil.copy(file, shallow)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (shallow / "config.json").write_text(json.dumps(_of_two_layers(config)), encoding="utf-8")
    (shallow / SEED).write_text('{"seed": 0}', encoding="utf-8")
    return True


def _of_two_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with its first layers alone; lists of one value a layer with those of these."""
    layers = config.get("num_hidden_layers", LAYERS)
    found: dict[str, Any] = {**config, "num_hidden_layers": min(layers, LAYERS)}
    for name, value in config.items():
        if name == "added_biases":
            found[name] = [path for path in value if int(re.findall(r"\.(\d+)\.", path)[0]) < LAYERS]
        elif isinstance(value, list) and len(value) == layers:
            found[name] = value[:LAYERS]
    found.pop("quantization_config", None)  # the weights tell
    return found


def _write(shallow: Path, written: Path, format: str, type: str | None) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    from reproducer.models.architecture import architecture_of
    from reproducer.models.load import GENERATION, load_model
    from reproducer.models.quiet import quiet
    from reproducer.pruning.plan import Plan, units_of

    model: Any
    model, tokenizer = load_model(shallow)
    if (shallow / GENERATION).is_file():
        with quiet():
            model.generation_config = GenerationConfig.from_pretrained(shallow)
    architecture = architecture_of(model)
    units = units_of(model, architecture)
    kept = {kind.name: {0: list(range(max(1, units[0][kind.name] - 1)))} for kind in architecture.kinds}
    writer(format, type)(Plan(units, kept).apply(model), tokenizer, written, type)
    if format == "hf":
        with quiet(), torch.no_grad():
            AutoModelForCausalLM.from_pretrained(written)(torch.zeros(1, 2, dtype=torch.long))
