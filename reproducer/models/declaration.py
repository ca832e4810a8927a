"""What a declaration of an architecture consists of: which weight rows and columns it couples, as data.

Statistics, scoring, counting, allocation, surgery and random weights all read the same declaration, and go through the
kinds of units that it lists. The declarations themselves are in `reproducer.models.families`. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

Vectors = Literal["query", "key_value", "fused", "single"]


@dataclass(frozen=True)
class Member:
    """One weight, or one part of a fused weight, of a coupled structure.

    Attributes:
        module: where the linear layer sits inside a decoder layer.
        axis: 0 if the structure owns rows of the weight (output features), 1 if it owns columns.
        vectors: what one unit owns: `query` the rows of all query heads of its key-value group, `key_value` one head's
            rows, `fused` the rows [query, key, value] of one head side by side, `single` one row or column.
        after: the vectors of the same weight that stand in front of this member's, where several share a weight.
    """

    module: str
    axis: Literal[0, 1]
    vectors: Vectors
    after: tuple[Vectors, ...] = ()


@dataclass(frozen=True)
class Norm:
    """A root-mean-square norm over the outputs of all heads together (OLMo 2), which shrinks with them."""

    module: str
    vectors: Vectors


@dataclass(frozen=True)
class Width:
    """An attribute from which a forward pass reads a width.

    Attributes:
        module: the module inside a decoder layer that has the attribute.
        attribute: its name; `config.NAME` where the module reads it from the model's configuration.
        counts: what it counts: `queries` (query heads), `groups` (key-value groups), or the units of a kind, by name.
    """

    module: str
    attribute: str
    counts: str


@dataclass(frozen=True)
class Kind:
    """A kind of unit that can be cut out of a decoder layer.

    Attributes:
        name: in plans, scores and messages.
        members: weights of a unit. The last is the *cut projection*: the units feed it, its columns are theirs, side by
            side, and what it gives goes into the residual stream.
        norms: norms over all units of a layer together.
        norm_behind: path of the norm between the cut projection and the residual stream, where there is one.
        fine: whether a layer has so many units that a cut can be exact in them. Such a kind makes up for what the
            others, of which a layer has few, miss; the number that stays can be rounded (`round_to`); it is never
            pooled over layers.
    """

    name: str
    members: tuple[Member, ...]
    norms: tuple[Norm, ...] = ()
    norm_behind: str | None = None
    fine: bool = False

    @property
    def output(self) -> str:
        """Path of the cut projection in a decoder layer."""
        return self.members[-1].module

    @property
    def attends(self) -> bool:
        """Whether a unit is an attention head, or a key-value group with its query heads."""
        return self.members[-1].vectors == "query"

    def modules(self) -> dict[str, Literal[0, 1]]:
        """{path of a linear module in a decoder layer: axis that the units own}; each fused module once."""
        return {member.module: member.axis for member in self.members}


@dataclass(frozen=True)
class Architecture:
    """A family of causal language models with the same coupled structures and the same module names.

    Attributes:
        family: its name for people.
        model_types: the `model_type` of the configurations that belong to it.
        kinds: what can be cut, in the order in which a decoder layer computes it.
        decoder: path of the decoder, which holds the decoder layers as `layers`.
        head: path of the language-model head.
        attention: path of the attention inside a decoder layer, and `head_dim` the attribute that tells a head's width.
        widths: attributes that state a width.
        logit_divisor: the configuration's attribute by which the head's output is divided, if any.
        logit_cap: the configuration's attribute c of a final c·tanh(logits / c), if any.
        unit_norms: norm weights are offsets from one.
        branch_scale: attribute of a decoder layer by which its branches are multiplied, if any.
        stream_norm: the norm of the residual stream itself, in layers that have `do_layer_norm_before` off.
    """

    family: str
    model_types: tuple[str, ...]
    kinds: tuple[Kind, ...]
    decoder: str = "model"
    head: str = "lm_head"
    attention: str = "self_attn"
    head_dim: str = "head_dim"
    widths: tuple[Width, ...] = ()
    logit_divisor: str | None = None
    logit_cap: str | None = None
    unit_norms: bool = False
    branch_scale: str | None = None
    stream_norm: str | None = None

    def norm_of_stream(self, layer: nn.Module) -> nn.Module | None:
        """The norm that a layer applies to the residual stream itself, behind the MLP's sum, if it does."""
        if self.stream_norm is None or getattr(layer, "do_layer_norm_before", True):
            return None
        return layer.get_submodule(self.stream_norm)

    def kind(self, name: str) -> Kind:
        """The kind of this name."""
        return next(kind for kind in self.kinds if kind.name == name)

    def modules(self) -> dict[str, Literal[0, 1]]:
        """`Kind.modules` of all kinds together."""
        return {path: axis for kind in self.kinds for path, axis in kind.modules().items()}

    def output(self, name: str) -> str:
        """Path of the cut projection of a kind in a decoder layer."""
        return self.kind(name).output

    @cached_property
    def layers(self) -> str:
        """Path of the decoder layers."""
        return f"{self.decoder}.layers"

    def decoder_of(self, model: nn.Module) -> nn.Module:
        return attrgetter(self.decoder)(model)

    def decoder_layers(self, model: nn.Module) -> nn.ModuleList:
        return attrgetter(self.layers)(model)

    def head_of(self, model: nn.Module) -> nn.Linear:
        return attrgetter(self.head)(model)
