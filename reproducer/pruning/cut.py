"""What is cut: how much, where, and in how many steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from reproducer.errors import UserError
from reproducer.models.architecture import LayerShape

CHOICES = {"scope": ("local", "global", "parameters", "uniform"), "heads": ("auto", "local", "pooled")}


def default_layers(count: int) -> range:
    """Layers that LLM-Pruner's protocol prunes, 4 to 29 of 32, in proportion for a model of `count` layers."""
    return range(count // 8, count - count // 16)


class Cut(BaseModel):
    """The settings of a cut: one of `ratio` and `structure_ratio`, the other None.

    Attributes:
        ratio: fraction of all parameters of the model to remove.
        structure_ratio: fraction of the pruned layers' units to remove.
        layers: first layer to prune, and the one after the last; None: the protocol's share, or all where the scope is
            `parameters` or `uniform`.
        scope: `local` removes the same number from every layer; `global` ranks the units of a kind over all layers;
            `parameters` ranks the units of all kinds and layers together, by score per parameter; `uniform` leaves all
            layers of one shape, with the channels that come nearest to the ratio.
        heads: `auto`, `local` or `pooled` (see `allocation`), of a local scope.
        round_to: kept channels a layer are multiples of this.
        steps: equal cuts that reach the ratio, each decided on the smaller model.
        resample: each step has samples of its own.

    Raises:
        UserError: not exactly one ratio, or a setting out of its range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ratio: float | None = None
    structure_ratio: float | None = None
    layers: tuple[int, int] | None = None
    scope: Literal["local", "global", "parameters", "uniform"] = "local"
    heads: Literal["auto", "local", "pooled"] = "auto"
    round_to: int = 1
    steps: int = 1
    resample: bool = False

    @model_validator(mode="before")
    @classmethod
    def _possible(cls, data: Any) -> Any:
        ratios = [value for name in ("ratio", "structure_ratio") if (value := data.get(name)) is not None]
        if len(ratios) != 1:
            raise UserError("give exactly one of ratio (of all parameters) and structure_ratio (of each layer's units)")
        if not 0 < ratios[0] < 1:  # NaN fails this too
            raise UserError(f"a pruning ratio of {ratios[0]} is not between 0 and 1", "for example 0.2")
        for name, allowed in CHOICES.items():
            if data.get(name, allowed[0]) not in allowed:
                raise UserError(f"{name} '{data[name]}' is unknown", f"choose one of: {', '.join(allowed)}")
        if data.get("round_to", 1) < 1:
            raise UserError(f"round_to is {data['round_to']}; it counts channels and is at least 1")
        return data

    def at(self, **ratio: float | None) -> Self:
        """The same with another ratio of either kind."""
        return self.model_copy(update={"ratio": None, "structure_ratio": None, **ratio})

    @property
    def all_layers(self) -> bool:
        """Whether all layers are pruned, however many there are."""
        return self.layers is None and self.scope in ("parameters", "uniform")

    def within(self, count: int) -> range:
        """Indices of the layers to prune, of a model with so many."""
        if self.layers is not None:
            return range(*self.layers)
        return range(count) if self.all_layers else default_layers(count)

    def pools(self, shapes: Iterable[LayerShape]) -> bool:
        """Whether the heads of layers of these shapes are taken together."""
        grouped = any(shape.queries_per_group > 1 for shape in shapes)
        return self.scope != "uniform" and (self.heads == "pooled" or (self.heads == "auto" and grouped))

    def divided(self, steps: int) -> list[Self]:
        """So many cuts of the same model, each of which takes as much more than the one before it; the last is this.

        Raises:
            UserError: fewer than one step.
        """
        if steps < 1:
            raise UserError(f"a cut in {steps} steps; there is at least one")
        shares = [round(step / steps, 9) for step in range(1, steps)]
        before = self.model_copy(update={"round_to": 1}) if self.scope == "uniform" else self
        if self.ratio is not None:
            return [*(before.at(ratio=round(share * self.ratio, 9)) for share in shares), self]
        assert self.structure_ratio is not None
        return [*(before.at(structure_ratio=share * self.structure_ratio) for share in shares), self]

    def __str__(self) -> str:
        steps = f" in {self.steps} steps" if self.steps > 1 else ""
        if self.ratio is not None:
            return f"{100 * self.ratio:.4g}%{steps}"
        return f"{100 * (self.structure_ratio or 0):.4g}% of structures{steps}"
