"""A pruned model for the rest of the world: a folder with its weights, its tokenizer and a model card."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from reproducer.errors import UserError
from reproducer.exporting.base import LINEAGE, base_of, lineage_of
from reproducer.exporting.folder import new_folder
from reproducer.files import read_json
from reproducer.models.catalogue import HUB_ID
from reproducer.models.export.formats import writer
from reproducer.reporting.card import Base, Card, Layer, Origin, card_text

if TYPE_CHECKING:
    from torch import nn

    from reproducer.pruning.plan import Plan

PACKAGES = ("reproducer", "torch", "transformers")


def export(
    model: nn.Module,
    plan: Plan | None,
    directory: str | Path,
    *,
    tokenizer: Any = None,
    format: str = "hf",
    type: str | None = None,
    name: str | None = None,
    base: Base | None = None,
    origin: Origin | None = None,
) -> Path:
    """Write `model` as `plan` leaves it to a new folder, which appears as a whole or not at all.

    `from_pretrained` of transformers reads the folder: without remote code where the family's own configuration can say
    how wide the layers are, else with `trust_remote_code=True`, or where this package is imported.

    Args:
        model: the model that the plan was made for, which is left as it was; or, with `plan` None, one that has been
            cut already, and trained since, say.
        directory: is made; an empty folder will do.
        tokenizer: the model's, or a folder that holds it; None: that of the folder that the model was loaded from.
        format: a name of `reproducer.models.export.formats`: `hf` for transformers, `gguf` for llama.cpp.
        type: of the weights in a GGUF file: f16 by default; f32, bf16, q8_0, q6_k, q5_k_m, q4_k_m.
        name: what the card calls the model by when it loads it, such as a repository of the hub; None: the folder's.
        base: what the card says of the base model; None: what the model's configuration knows.
        origin: the run behind it, for the card.

    Returns:
        The folder.

    Raises:
        UserError: the plan was made for another model, the folder is not empty or cannot be written, or the format or
            the type is unknown, or cannot carry the model.
    """
    from reproducer.models.architecture import architecture_of

    architecture_of(model)  # what is no model of a known family is told as such
    cut: Any = model
    tokenizer = _tokenizer(tokenizer, model)  # what is missing is told before the work
    if plan is not None:
        plan.check_base(model)
        cut = plan.apply(model)
    card = card_of(model, plan, base or base_of(model), format, name or Path(directory).name, type)
    return write(cut, plan, Path(directory), card, tokenizer=tokenizer, origin=origin)


def card_of(model: nn.Module, plan: Plan | None, base: Base, format: str, name: str, type: str | None = None) -> Card:
    """As much of a card as is known before `model` is cut."""
    from reproducer.models.architecture import parameter_count

    card = Card(name=name, format=format, base=base, type=type)
    if plan is None:
        return card
    with tempfile.TemporaryDirectory() as folder:
        plan.save(path := Path(folder) / "plan.safetensors")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(
        card,
        parameters_before=parameter_count(model),
        method=plan.method,
        settings=plan.settings,
        changed=len(plan.tensors),
        plan_digest=digest,
        base_digest=plan.base or None,
    )


def write(
    cut: Any,
    plan: Plan | None,
    directory: Path,
    card: Card,
    *,
    tokenizer: Any,
    origin: Origin | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """What `export` does, with a model that is cut already; `files`: further ones, text by name."""
    from reproducer.models.architecture import parameter_count

    write_model = writer(card.format, card.type)
    directory = directory.expanduser().absolute()
    with new_folder(directory) as folder:
        try:
            write_model(cut, tokenizer, folder, card.type)
        except (UserError, OSError, SafetensorError):
            raise
        except Exception as error:  # whatever transformers objects to in an object that was changed
            raise UserError(
                f"the model cannot be written as {card.format}: {type(error).__name__}: {error}",
                "what was computed is kept: a stage stays in the store, and the same command goes on from there",
            ) from error
        card = replace(
            card,
            parameters=parameter_count(cut),
            layers=_layers(cut, plan),
            remote_code=any(folder.glob("modeling_*.py")),
            versions={package: importlib.metadata.version(package) for package in PACKAGES},
            origin=origin,
            tokenizer=tokenizer is not None,
        )
        if lineage := lineage_of(card.base, card.cut):
            _remember(folder / "config.json", lineage)
        for name, text in {**(files or {}), "README.md": card_text(card)}.items():
            (folder / name).write_text(text, encoding="utf-8")
    return directory


def export_folder(
    folder: str | Path, directory: str | Path, *, format: str = "hf", type: str | None = None, name: str | None = None
) -> Path:
    """Write the model of a folder, pruned here, trained since or dense, to a new folder; arguments as `export`.

    Raises:
        UserError: as `load_model` and `export`.
    """
    from reproducer.models.load import load_model

    model, tokenizer = load_model(folder)
    return export(model, None, directory, tokenizer=tokenizer, format=format, type=type, name=name)


def _remember(config: Path, lineage: Mapping[str, Any]) -> None:
    """Let config.json say what the model was before; a GGUF file has none."""
    if (settings := read_json(config)) is not None:
        text = json.dumps(settings | {LINEAGE: lineage}, indent=2, sort_keys=True)
        config.write_text(f"{text}\n", encoding="utf-8")


def _layers(cut: Any, plan: Plan | None) -> list[Layer]:
    """Every layer of the base model; of a model whose plan is not known, those that it has."""
    from reproducer.models.architecture import architecture_of
    from reproducer.pruning.plan import units_of

    units = plan.units if plan is not None else units_of(cut, architecture_of(cut))
    layers = []
    for index, of in units.items():
        left = of if plan is None else plan.counts(index)
        layers.append(Layer(index, left["heads"], of["heads"], left["channels"], of["channels"]))
    return layers


def _tokenizer(given: Any, model: Any) -> Any:
    """The tokenizer that is meant: given, or of the folder or the repository of the hub that the model is from.

    None where there is none, which is told.
    """
    from transformers import AutoTokenizer

    from reproducer.models.quiet import quiet
    from reproducer.models.tokenizer import load_tokenizer

    if given is None:
        name = str(getattr(model.config, "_name_or_path", ""))
        if any(Path(name).glob("tokenizer*")) if name else False:
            given = name
        elif name and HUB_ID.fullmatch(name) and not Path(name).is_dir():
            revision = getattr(model.config, "_commit_hash", None)
            try:
                with quiet():
                    return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
            except Exception:  # neither in the cache nor on the hub
                pass
    if given is None:
        warnings.warn("no tokenizer is known, so none is written beside the weights: pass tokenizer=", stacklevel=4)
        return None
    if not isinstance(given, str | Path):
        return given
    if not Path(given).is_dir():
        raise UserError(f"there is no tokenizer folder {given}", "give the tokenizer itself, or the folder it lies in")
    return load_tokenizer(Path(given))
