"""What kinds of stages share: how they say what they read, and the model that they work on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict

from reproducer.data.text import text_fingerprints, text_source
from reproducer.pruning.cut import Cut
from reproducer.queue import Context, Stage, describe_machine
from reproducer.stages.cost import Cost, ModelShape
from reproducer.stages.results import CalibrationUse, TrainingStep

if TYPE_CHECKING:
    from reproducer.data.pool import Samples

RESULT = "result.json"
PLAN = "plan.safetensors"
Role = Literal["report", "search", "calibration"]


class Value(BaseModel):
    """A part of a stage's parameters: frozen and typed, so that equal settings give equal keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TextSource(Value):
    """A text in one of its roles, with what names its source in a key."""

    name: str
    role: Role
    source: dict[str, Any]

    @classmethod
    def of(cls, name: str, role: Role) -> Self:
        """UserError: there is no such text, or it cannot serve for this."""
        return cls(name=name, role=role, source=text_source(name, role).identity())

    def fingerprints(self) -> dict[str, str]:
        """Today's digest of the text, by its name and role."""
        return text_fingerprints(self.name, self.role)

    def load(self) -> Any:
        from reproducer.data.text import load_text

        return load_text(self.name, self.role)


class Calibration(Value):
    """`samples` of `length` tokens, drawn in these shares from a pool of so many of the texts (None: all of them)."""

    texts: tuple[TextSource, ...]
    shares: tuple[float, ...] = (1.0,)
    samples: int
    length: int
    pool: int | None = None

    @property
    def name(self) -> str:
        """For a person."""
        return " + ".join(text.name for text in self.texts)

    def use(self, pool: int | None) -> CalibrationUse:
        """What results.json says of it; `pool`: the passages that were there."""
        shares = [] if len(self.texts) == 1 else list(self.shares)
        return CalibrationUse(
            dataset=self.name,
            split=self.texts[0].role,
            shares=shares,
            samples=self.samples,
            length=self.length,
            limit=self.pool,
            pool=pool,
        )

    def fingerprints(self) -> dict[str, str]:
        """Today's digests of the texts."""
        return {name: digest for text in self.texts for name, digest in text.fingerprints().items()}

    def load(self, tokenizer: Any) -> Samples:
        """The pool: passages of a text for calibration, windows of one to search on."""
        from reproducer.data.pool import Mix, apportioned, calibration_pool, window_pool

        pools = []
        sizes: list[int] | list[None] = apportioned(self.pool, self.shares) if self.pool else [None] * len(self.texts)
        for text, size in zip(self.texts, sizes, strict=True):
            make = calibration_pool if text.role == "calibration" else window_pool
            pools.append(make(text.load(), tokenizer, self.length, size))
        return pools[0] if len(pools) == 1 else Mix(pools, self.shares)


def slug(name: str) -> str:
    """A data set's name as it stands in a metric's key: `python-topics` -> `python_topics`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def device_name(device: str) -> str:
    """What a time was taken on: a GPU's name, or the processor and its cores."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    machine = describe_machine()
    return f"{machine['cpu']}, {machine['cpu_count']} cores"


def seed_text(seed: int | None) -> str:
    """What a stage's label says of its seed."""
    return f" seed {seed}" if seed else ""


@dataclass(frozen=True)
class ModelState:
    """A model: a base, and the edits made to it, in order."""

    model: Stage
    dtype: str
    edits: tuple[Edit, ...] = ()

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of an `OnModel` stage."""
        return {"model": self.model, "dtype": self.dtype, "edits": self.edits}

    @property
    def label(self) -> str:
        return (self.edits or (self.model,))[-1].label

    def edited(self, edit: Edit) -> ModelState:
        """The model after one more edit."""
        return replace(self, edits=(*self.edits, edit))

    def only_cut(self) -> ModelState:
        """The model without what was trained: merged into the weights, a recovery changes no size and no speed."""
        return replace(self, edits=tuple(edit for edit in self.edits if edit.cuts))


class OnModel(Stage):
    """A stage that works on a model: a base and the edits made to it, in order.

    Attributes:
        decides: what goes.
    """

    decides: ClassVar[bool] = False

    dtype: str
    model: Stage
    edits: tuple[Edit, ...] = ()

    @property
    def inputs(self) -> dict[str, Stage]:
        return {**super().inputs, **named_edits(self.edits)}

    def load(self, context: Context, merge: bool = False) -> tuple[Any, Any]:
        """Model and tokenizer: the base with its edits applied in order.

        Args:
            merge: all edits become part of the weights; else the last one may stay an adapter.

        The last one stays in memory for the next stage of the process, which must find it as it was. Products are
        formed as `wide_products` says until the stage ends, but not where times are taken: those are torch's own.
        """
        from reproducer.models.products import wide_products

        parts = tuple(str(context.inputs[name]) for name in ("model", *named_edits(self.edits)))
        wanted = (parts, self.dtype, context.device, merge)
        if _Last.wanted != wanted:
            forget()  # before the next is loaded: two may not fit
            _Last.loaded = self._read(context, merge)
            _Last.wanted = wanted
        model = _Last.loaded[0]
        if not self.timed:
            context.enter(wide_products(model.dtype, model.device))
        return _Last.loaded

    def passages(self, context: Context, cut: Cut) -> Path:
        """The folder of statistics of single passages for all stages that cut these layers of this model.

        Processors of another kind round otherwise, and have a folder of their own.
        """
        import torch

        from reproducer.models.products import NARROW, has_fast_products

        arithmetic = [torch.__version__, torch.device(context.device).type, torch.backends.cpu.get_cpu_capability()]
        arithmetic += [str(dtype) for dtype in NARROW if has_fast_products(dtype)]
        layers = "all" if cut.all_layers else cut.layers
        return context.shared("model", passages=1, dtype=self.dtype, layers=layers, arithmetic=arithmetic)

    def _read(self, context: Context, merge: bool) -> tuple[Any, Any]:
        from reproducer.models.load import load_model

        model: Any
        model, tokenizer = load_model(context.inputs["model"], self.dtype, context.device)
        return apply_edits(model, self.edits, context.inputs, merge), tokenizer

    def cost(self, model: ModelShape) -> Cost:
        """About what the stage takes."""
        raise NotImplementedError


class Edit(OnModel):
    """A stage whose artifact changes the model that it was made on: a plan, tensors, an adapter.

    Attributes:
        role: what a row calls it.
        cuts: it makes the model smaller.
    """

    role: ClassVar[str]
    cuts: ClassVar[bool] = False

    def apply(self, model: Any, directory: Path, merge: bool = False) -> Any:
        """The edited model, which may be `model` itself, changed.

        Args:
            directory: of the stage's artifact.
            merge: into the weights; an adapter may stay one otherwise.
        """
        raise NotImplementedError

    def removed_layers(self, directory: Path) -> list[int]:
        """Layers of the model before the edit that it removes as a whole."""
        return []

    def training_steps(self, directory: Path) -> list[TrainingStep] | None:
        """The steps that it was trained in, for an edit that is trained."""
        return None


OnModel.model_rebuild()


def named_edits(edits: Sequence[Edit]) -> dict[str, Edit]:
    """Edits by the names that rows and recipes have for them: `plan`, `recovery`, `recovery-2`."""
    named: dict[str, Edit] = {}
    for edit in edits:
        count = sum(other.role == edit.role for other in named.values())
        named[f"{edit.role}-{count + 1}" if count else edit.role] = edit
    return named


def apply_edits(model: Any, edits: Sequence[Edit], directories: Mapping[str, Path], merge: bool) -> Any:
    """A base model with its edits, the folders of which are given by name. An adapter stays one only at the end."""
    for number, (name, edit) in enumerate(named_edits(edits).items(), 1):
        model = edit.apply(model, directories[name], merge=merge or number < len(edits))
    return model


class _Last:
    wanted: Any = None
    loaded: Any = None


def forget() -> None:
    """Let go of the model in memory: for a stage that needs the room or changes it."""
    _Last.wanted = _Last.loaded = None


def write_result(context: Context, result: BaseModel) -> None:
    """Leave a stage's typed result in its artifact."""
    text = result.model_dump_json(indent=1)
    (context.directory / RESULT).write_text(text + "\n", encoding="utf-8")
