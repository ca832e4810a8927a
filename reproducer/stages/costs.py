"""What passes through a model cost: products, memory traffic and calls, from its config and its cut alone."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from reproducer.models.catalogue import CATALOGUE
from reproducer.models.fetch import recipe
from reproducer.models.load import locate
from reproducer.pruning.allocation import default_layers
from reproducer.queue import Stage
from reproducer.stages import amounts

ITEM = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a number

# How often all inputs and outputs of a layer's linear modules are read or written in a forward pass: by norms,
# rotations, activation functions, residuals and conversions. Fitted to measured passes, as are the two below.
TRAFFIC = 6.0
LOGIT_TRAFFIC = 4.0  # the same of logits, in float32
LORA_TRAFFIC = 12.0  # the same of what LoRA does beside its targets, in float32


@dataclass(frozen=True)
class Work:
    """What has to be done.

    Attributes:
        flops: of matrix products, a multiply-add being two.
        bytes: read and written beside the products.
        layers: decoder layers entered; each costs its calls, however small it is.
        read: bytes from the disk.
        fetched: bytes from the network.
    """

    flops: float = 0.0
    bytes: float = 0.0
    layers: float = 0.0
    read: float = 0.0
    fetched: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __mul__(self, times: float) -> Work:
        return Work(**{name: value * times for name, value in vars(self).items()})


@dataclass(frozen=True)
class Shape:
    """A model's widths, and the share of its decoder layers' linear weights that is left.

    Attributes:
        queries, keys: widths of all query heads together and of all key heads together.
        kept: the share of linear weights, on average over the layers.
        characters: of a token.
    """

    layers: int
    hidden: int
    queries: int
    keys: int
    intermediate: int
    vocabulary: int
    tied: bool
    dtype: str
    kept: float = 1.0
    characters: float = amounts.CHARACTERS_PER_TOKEN

    @classmethod
    def of(cls, config: Mapping[str, Any], dtype: str, **options: Any) -> Self:
        """The shape of a model of the LLaMA family by its config.json. KeyError or TypeError if it is none of one."""
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        head = config.get("head_dim") or hidden // heads
        if dtype == "auto":
            dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
        if dtype not in ITEM:
            raise KeyError(dtype)
        return cls(
            config["num_hidden_layers"],
            hidden,
            heads * head,
            (config.get("num_key_value_heads") or heads) * head,
            config["intermediate_size"],
            config["vocab_size"],
            bool(config.get("tie_word_embeddings")),
            dtype,
            **options,
        )

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return ITEM[self.dtype]

    @property
    def widths(self) -> dict[str, int]:
        """Each linear module of a layer has the hidden size on one side and this, which pruning cuts, on the other."""
        attention = {"q_proj": self.queries, "k_proj": self.keys, "v_proj": self.keys, "o_proj": self.queries}
        return attention | dict.fromkeys(("gate_proj", "up_proj", "down_proj"), self.intermediate)

    @property
    def dense(self) -> Self:
        """The model before the cut."""
        return dataclasses.replace(self, kept=1.0)

    @property
    def layer_weights(self) -> float:
        """Elements of a layer's linear weights."""
        return self.kept * self.hidden * sum(self.widths.values())

    @property
    def parameters(self) -> float:
        """All that are left, tied embeddings counted once."""
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return self.layers * (self.layer_weights + 2 * self.hidden) + self.hidden + embeddings

    @property
    def bytes(self) -> float:
        """Of the weights."""
        return self.parameters * self.item

    def features(self, modules: Collection[str] | None = None) -> float:
        """Inputs and outputs, for one token, of a layer's linear modules; of those named or all."""
        return sum(
            self.hidden + self.kept * width for name, width in self.widths.items() if modules is None or name in modules
        )

    def tokens(self, characters: float) -> float:
        return characters / self.characters

    def first(self, cut: Mapping[str, Any]) -> int:
        """Index of the first layer that a recipe's cut prunes; there is one, as a run will check."""
        return min(self._pruned(cut).start, self.layers - 1)

    def cut(self, cut: Mapping[str, Any]) -> Self:
        """What a recipe's cut leaves, heads and channels not rounded to whole ones."""
        if cut.get("ratio") is not None:
            removed = cut["ratio"] * self.parameters / (self.layers * self.layer_weights)
        else:
            removed = cut["structure_ratio"] * len(self._pruned(cut)) / self.layers
        return dataclasses.replace(self, kept=self.kept * max(0.0, 1 - removed))

    def _pruned(self, cut: Mapping[str, Any]) -> range:
        return default_layers(self.layers) if cut["layers"] is None else range(*cut["layers"])


def shape_of(stage: Stage, fetched: Mapping[str, Path]) -> Shape | None:
    """The shape of the model that a stage's inputs make; None where its config is not known before it is fetched.

    Args:
        fetched: key of a model stage -> the folder of its artifact, of those that are in the store.
    """
    model = stage.inputs.get("model", stage)
    while (config := _config(model, fetched)) is None and "model" in model.inputs:
        model = model.inputs["model"]  # a derived model has its base's widths
    if config is None:
        return None
    own = model.params.get("recipe", {}).get("source") in ("random", "drawn")
    try:
        options = {"characters": 1.0} if own else {}  # one token a byte
        shape = Shape.of(config, stage.params.get("dtype", "auto"), **options)
    except (KeyError, TypeError, ZeroDivisionError):
        return None
    plan = stage.inputs.get("plan")
    return shape.cut(plan.params["prune"]) if plan is not None else shape


def _config(model: Stage, fetched: Mapping[str, Path]) -> Mapping[str, Any] | None:
    given = model.params.get("recipe", {})
    if "config" in given:
        return given["config"]
    for entry in CATALOGUE.values():
        if entry.config is not None and recipe(entry) == given:
            return entry.config
    folder = locate(fetched[model.key]) if model.key in fetched else Path(given.get("path", ""))
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def forward(shape: Shape, tokens: float, length: float, batch: float, layers: int | None = None) -> Work:
    """A forward pass of `tokens` in sequences of `length`, `batch` tokens at once, through so many decoder layers."""
    layers = shape.layers if layers is None else layers
    entered = layers * math.ceil(tokens / batch)
    products = 2 * shape.layer_weights + 4 * length * shape.queries * shape.kept  # attention's two, in full
    beside = TRAFFIC * tokens * layers * shape.features() + entered * shape.layer_weights  # weights once a batch
    return Work(tokens * layers * products, shape.item * beside, entered)


def head(shape: Shape, tokens: float, batch: float, gradient: bool = False) -> Work:
    """Logits of so many tokens and their losses; with `gradient`, that of the losses with respect to its input too."""
    weights, products = shape.vocabulary * shape.hidden, 2 if gradient else 1
    traffic = LOGIT_TRAFFIC * 4 * tokens * shape.vocabulary + shape.item * weights * math.ceil(tokens / batch)
    return Work(2 * products * tokens * weights, products * traffic)


def statistics(
    shape: Shape, samples: int, length: int, first: int, per_sample: bool, activations: float, below: bool = True
) -> Work:
    """The statistics of the layers from `first` on: forward, and backward with the gradients of all their weights.

    Args:
        per_sample: the gradients of every sample are formed and reduced by themselves.
        activations: bytes that may be kept for the backward pass; layers that do not fit run forward twice.
        below: the layers below have to run too.
    """
    tokens, upper = samples * length, shape.layers - first
    once = forward(shape, tokens, length, tokens, upper)
    again = max(0.0, 1 - activations / max(1.0, upper * graph_bytes(shape, tokens)))
    work = once * (3 + again) + head(shape, tokens, tokens, gradient=True)
    if below and first:
        work += forward(shape, tokens, length, tokens, first)
    reductions = (3 * samples if per_sample else 2) * upper * shape.layer_weights
    return work + Work(bytes=4 * reductions)


def adapter(shape: Shape, tokens: float, batch: float, rank: int, targets: Collection[str]) -> Work:
    """What LoRA adds to a forward pass: two narrow products a target, in float32."""
    features = tokens * shape.layers * shape.features(targets)
    entered = shape.layers * math.ceil(tokens / batch)
    calls = entered * len(targets) / 5  # a target makes about a fifth as many calls as a layer
    return Work(2 * rank * features, 4 * LORA_TRAFFIC * features, calls)


def training(shape: Shape, tokens: float, length: float, batch: float, rank: int, targets: Collection[str]) -> Work:
    """LoRA's forward and backward passes, the backward pass through frozen weights."""
    once = forward(shape, tokens, length, batch)
    backward = Work(once.flops, 2 * once.bytes, 2 * once.layers)  # no gradient of weights: as many products as forward
    learned = amounts.RESPONSE * tokens
    logits = head(shape, learned, amounts.RESPONSE * batch, gradient=True)
    return once + backward + adapter(shape, tokens, batch, rank, targets) * 3 + logits


def graph_bytes(shape: Shape, tokens: float) -> float:
    """What a layer keeps for its backward pass: most of the inputs and outputs of its linear modules."""
    return 0.8 * tokens * shape.features() * shape.item
