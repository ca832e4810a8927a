"""The model card of an exported model: what it is made of, and what was measured of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproducer.models.export.formats import GGUF_TYPE, gguf_file
from reproducer.models.gguf.types import file_type
from reproducer.reporting import numbers
from reproducer.reporting.article import command_of
from reproducer.reporting.escape import escape_markdown, one_line
from reproducer.reporting.markdown import render
from reproducer.stages.results import Column, Results, Row

LIBRARIES = {"hf": "transformers", "gguf": "llama.cpp"}  # the hub's word for what loads a format


@dataclass(frozen=True)
class Base:
    """The model that was pruned: its label, its repository on the hub, its licence in the hub's words, its source.

    `cuts`: that were made before the one that the card is of.
    """

    label: str
    hub_id: str | None = None
    license: str | None = None
    source: str | None = None
    revision: str | None = None
    notes: str = ""
    cuts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """Units of a layer of the base model that are left, and that there were; none left: the layer is gone."""

    index: int
    heads: int
    heads_before: int
    channels: int
    channels_before: int


@dataclass(frozen=True)
class Origin:
    """The run behind a model, and its row."""

    results: Results
    row: Row

    @property
    def dense(self) -> Row | None:
        """The base model's row."""
        rows = (row for row in self.results.rows if row.model == self.row.model and row.method == "dense")
        return next(rows, None)


@dataclass(frozen=True)
class Card:
    """What a model card tells.

    Attributes:
        name: what the model is loaded by.
        type: of the weights in a GGUF file; None: the writer's own choice.
        settings: the plan's; changed: weights that it changes or adds.
        tokenizer: whether one lies beside the weights.
        remote_code: whether the folder brings a module of its own.
        plan_digest, base_digest: SHA-256 of the plan's file, and the plan's fingerprint of its base.
        versions: of the packages that wrote it.
    """

    name: str
    format: str
    base: Base
    type: str | None = None
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    changed: int = 0
    plan_digest: str | None = None
    base_digest: str | None = None
    parameters: int = 0
    parameters_before: int | None = None
    layers: Sequence[Layer] = ()
    remote_code: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    origin: Origin | None = None
    tokenizer: bool = True

    @property
    def cut(self) -> str | None:
        """This cut in a few words; None where none was made."""
        if self.origin is not None:
            row = self.origin.row
            return None if row.method == "dense" else f"{row.label}, {numbers.cut(row)}, {numbers.tuning(row)}"
        return f"{self.method}, {self.removed:.1%} of the parameters" if self.method and self.removed else None

    @property
    def rounded(self) -> bool:
        """Whether the file holds fewer bits than what was measured."""
        return self.format == "gguf" and file_type(self.type or GGUF_TYPE).quantised

    @property
    def removed(self) -> float | None:
        """The share of the base's parameters that is gone."""
        return None if not self.parameters_before else 1 - self.parameters / self.parameters_before

    @property
    def uneven(self) -> bool:
        return len({(layer.heads, layer.channels) for layer in self.layers}) > 1


def card_text(card: Card) -> str:
    """README.md: the hub's metadata, and a page whose every value is escaped."""
    origin = card.origin
    page = render(
        "card.j2",
        card=card,
        row=origin and origin.row,
        command=origin and _command(origin.results),
        measured=_measured(origin),
        load=_loading(card),
    )
    return f"---\n{_metadata(card)}\n---\n\n{page}"


def _command(results: Results) -> str:
    """What makes the model again: with its whole path, where the spec lies beside the weights."""
    command = shlex.join(results.command)
    whole = bool(results.command) and Path(results.command[-1]).is_absolute() and command.isprintable()
    return f"`{command}`" if whole and "`" not in command else str(escape_markdown(command_of(results)))


def _metadata(card: Card) -> str:
    from huggingface_hub import ModelCardData

    pruned = ["pruned", "structured-pruning"] if card.cut or card.base.cuts else []
    tags = [*pruned, "reproducer", *filter(None, [card.method])]
    return ModelCardData(
        base_model=card.base.hub_id,
        license=card.base.license,
        library_name=LIBRARIES.get(card.format, card.format),
        pipeline_tag="text-generation",
        tags=[one_line(tag) for tag in tags],
    ).to_yaml()


def _loading(card: Card) -> list[str]:
    """Lines that load the model: of Python; of a shell for a GGUF file."""
    if card.format == "gguf":
        return [f"llama-cli -m {gguf_file(card.type)}"]
    name = json.dumps(one_line(card.name), ensure_ascii=False)
    trust = ", trust_remote_code=True" if card.remote_code else ""
    model = f"model = AutoModelForCausalLM.from_pretrained({name}{trust})"
    if not card.tokenizer:
        return ["from transformers import AutoModelForCausalLM", "", model]
    tokenizer = f"tokenizer = AutoTokenizer.from_pretrained({name}{trust})"
    return ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", model, tokenizer]


def _measured(origin: Origin | None) -> list[tuple[str, str | None, str]]:
    """Each measure's name, and how its value of the dense model and of this one are written."""
    if origin is None:
        return []
    dense = origin.dense.metrics if origin.dense else {}
    units, found = {"perplexity": ", perplexity", "accuracy": ", accuracy in %"}, []
    for column in origin.results.columns:
        value, before, form = origin.row.metrics.get(column.key), dense.get(column.key), form_of(column)
        if value is not None:
            name = f"{column.label}{units.get(column.kind, '')}"
            found.append((name, None if before is None else form(before), form(value)))
    return found


def form_of(column: Column) -> Callable[[float], str]:
    """How a value of a column is written, as in the paper's tables."""
    return {"perplexity": numbers.perplexity, "accuracy": numbers.percent}.get(column.kind, numbers.other)
