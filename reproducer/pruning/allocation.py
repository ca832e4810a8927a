"""How many units each layer keeps, and which.

`structure_ratio` is LLM-Pruner's: every pruned layer loses floor(ratio · units) heads and channels. `ratio` is the
fraction of *all* parameters: the structure ratio whose cut comes nearest to it is searched for.

Scope `local` removes the same number from every layer; `global` ranks the units of all layers together by score.

With grouped-query attention a layer has few groups (SmolLM2: 3), and a local cut would round to none or to a third of
the attention. So groups are *pooled* there by default: the layers together lose floor(ratio · all groups), the ones
with the smallest share of their own layer's importance, at least one staying in each layer. A share makes layers
comparable whose scores differ in scale. `heads` = local, pooled or auto (pooled for grouped-query models) decides.

A score of -inf is that of a unit which is gone already: it is among those that go, however few these would be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.models.architecture import (
    KINDS,
    Architecture,
    Kind,
    architecture_of,
    layer_shape,
    parameter_count,
    unit_parameters,
)
from reproducer.pruning.cut import Cut

Scores = Mapping[int, Mapping[Kind, Tensor]]  # layer -> kind -> [units]
Kept = dict[Kind, dict[int, list[int]]]
Counts = dict[Kind, dict[int, int]]

TOLERANCE = 0.005  # by which a cut may miss a ratio of all parameters


def default_layers(count: int) -> range:
    """Layers that LLM-Pruner's protocol prunes, 4 to 29 of 32, in proportion for a model of `count` layers."""
    return range(count // 8, count - count // 16)


def check_layers(layers: Iterable[int] | None, count: int) -> list[int]:
    """Sorted layer indices; the protocol's share of them for None. UserError if one is out of range."""
    indices = sorted(default_layers(count) if layers is None else set(layers))
    if not indices or indices[0] < 0 or indices[-1] >= count:
        given = f"{indices[0]} to {indices[-1]}" if indices else "none"
        raise UserError(f"layers to prune: {given}; the model has layers 0 to {count - 1}")
    return indices


def allocate(model: nn.Module, architecture: Architecture, scores: Scores, settings: Cut) -> Kept:
    """The units to keep of every layer in `scores`: {kind: {layer: sorted unit indices}}.

    Raises:
        UserError: the ratio cannot be reached with these layers (says how much can), or nothing would be removed.
    """
    cut = _Allocator(model, architecture, scores, settings)
    return cut.kept(cut.decide())


def check_reachable(model: nn.Module, layers: Iterable[int] | None, settings: Cut, steps: int = 1) -> None:
    """Refuse what `allocate` would refuse whatever the scores, before any is known; a meta device will do.

    That no cut of these layers removes enough, or that any cut removes nothing, never depends on scores. That the
    nearest cut misses the ratio does not either where layers are of one shape, unless a global cut is rounded.

    Args:
        layers: those to prune; by default the protocol's.
        steps: equal cuts that it is reached in, each of which has to be reached and to remove something.

    Raises:
        UserError: as `allocate` does, or a layer is out of range.
    """
    architecture = architecture_of(model)
    blocks = architecture.decoder_layers(model)
    shapes = {index: layer_shape(blocks[index], architecture) for index in check_layers(layers, len(blocks))}
    ones: Scores = {i: {kind: torch.ones(shape.units(kind)) for kind in KINDS} for i, shape in shapes.items()}
    known = len(set(shapes.values())) == 1 and (settings.scope == "local" or settings.round_to == 1)
    before: Counts = {}
    for step, part in enumerate(settings.divided(steps), 1):
        cut = _Allocator(model, architecture, ones, part)
        try:
            if not known:
                cut.check_most(part.ratio or 0)
            elif (counts := cut.decide()) == before:
                raise UserError("it removes no more than the one before it")
            else:
                before = counts
        except UserError as error:
            if steps == 1:
                raise
            raise UserError(f"step {step} of {steps}: {error.message}", "take fewer steps (prune.steps)") from None


def parameters_to_remove(model: nn.Module, layers: Iterable[int], settings: Cut) -> int:
    """How many parameters a cut takes away: of a structure ratio as many as with the same number of every layer.

    For methods that spread a cut over the layers as they like, so that they remove as much as the others do.
    """
    if settings.ratio is not None:
        return round(settings.ratio * parameter_count(model))
    assert settings.structure_ratio is not None
    architecture = architecture_of(model)
    blocks = architecture.decoder_layers(model)
    shapes = {index: layer_shape(blocks[index], architecture) for index in layers}
    ones: Scores = {i: {kind: torch.ones(shape.units(kind)) for kind in KINDS} for i, shape in shapes.items()}
    cut = _Allocator(model, architecture, ones, settings)
    return cut.parameters(cut.counts(settings.structure_ratio))


class _Allocator:
    def __init__(self, model: nn.Module, architecture: Architecture, scores: Scores, settings: Cut) -> None:
        self.settings = settings
        layers = architecture.decoder_layers(model)
        shapes = {index: layer_shape(layers[index], architecture) for index in scores}
        self.pooled = settings.pools(shapes.values())
        self.units = {kind: {index: shapes[index].units(kind) for index in scores} for kind in KINDS}
        self.cost = {
            kind: {index: unit_parameters(layers[index], architecture, kind) for index in scores} for kind in KINDS
        }
        self.scores = {kind: {index: scores[index][kind].double() for index in scores} for kind in KINDS}
        self.gone = {
            kind: {index: int(values.isneginf().sum()) for index, values in of_kind.items()}
            for kind, of_kind in self.scores.items()
        }
        self.total = parameter_count(model)
        # Ascending order of each layer's units; a stable sort, so that ties fall the same way everywhere.
        self.order = {
            kind: {index: torch.argsort(values, stable=True).tolist() for index, values in of_kind.items()}
            for kind, of_kind in self.scores.items()
        }
        self.ranking = {
            "heads": self._ranking("heads", shares=settings.scope == "local"),
            "channels": self._ranking("channels", shares=False) if settings.scope == "global" else [],
        }

    def _ranking(self, kind: Kind, shares: bool) -> list[int]:
        """Layers in the order in which they lose units of `kind`, all ranked together; one unit a layer stays."""
        entries = []
        for index, scores in self.scores[kind].items():
            values, scale = scores.tolist(), _importance(scores) if shares else 1.0
            for place, unit in enumerate(self.order[kind][index][:-1]):
                entries.append((values[unit] / (scale or 1.0), place, index))
        return [index for _, _, index in sorted(entries)]

    def removed(self, kind: Kind, ratio: float) -> dict[int, int]:
        """How many units of `kind` each layer loses, the ones that are gone already among them."""
        units, gone = self.units[kind], self.gone[kind]
        together = self.settings.scope == "global" or (kind == "heads" and self.pooled)
        if not together:
            return {index: max(min(_floor(ratio * count), count - 1), gone[index]) for index, count in units.items()}
        lost = Counter(self.ranking[kind][: max(_floor(ratio * sum(units.values())), sum(gone.values()))])
        return {index: lost[index] for index in units}

    def counts(self, ratio: float, channels: float | None = None) -> Counts:
        """Units that each layer loses at a structure ratio; the channels' own ratio if it differs."""
        counts: Counts = {
            "heads": self.removed("heads", ratio),
            "channels": self.removed("channels", ratio if channels is None else channels),
        }
        if self.settings.round_to > 1:
            counts["channels"] = self._rounded(counts["channels"])
        return counts

    def _rounded(self, removed: dict[int, int]) -> dict[int, int]:
        """Kept channels as multiples of `round_to`, their sum over the layers as near to the unrounded one as can be.

        Every layer is rounded down; the blocks left over go to the layers whose next block holds the largest share of
        the layer's importance.
        """
        step, units = self.settings.round_to, self.units["channels"]
        kept = {index: units[index] - count for index, count in removed.items()}
        down = {index: max(step, count // step * step) for index, count in kept.items()}
        if any(count > units[index] for index, count in down.items()):
            raise UserError(f"round_to is {step}, more than the {min(units.values())} channels of a layer")
        spare = round((sum(kept.values()) - sum(down.values())) / step)

        def share(index: int) -> float:
            values, descending = self.scores["channels"][index], self.order["channels"][index][::-1]
            block = descending[down[index] : down[index] + step]
            return float(values[block].sum()) / (_importance(values) or 1.0)

        left = {index: units[index] - self.gone["channels"][index] for index in down}
        candidates = [index for index in down if down[index] + step <= left[index]]
        for index in sorted(candidates, key=lambda index: (-share(index), index))[: max(spare, 0)]:
            down[index] += step
        return {index: units[index] - count for index, count in down.items()}

    def kept(self, counts: Counts) -> Kept:
        return {
            kind: {index: sorted(self.order[kind][index][counts[kind][index] :]) for index in self.units[kind]}
            for kind in KINDS
        }

    def parameters(self, counts: Counts) -> int:
        return sum(count * self.cost[kind][index] for kind in KINDS for index, count in counts[kind].items())

    def _parameters_at(self, heads: float, channels: float) -> int:
        return self.parameters(self.counts(heads, channels))

    def decide(self) -> Counts:
        """Units that each layer loses.

        Raises:
            UserError: the ratio cannot be reached, or nothing would be removed.
        """
        ratio, structure_ratio = self.settings.ratio, self.settings.structure_ratio
        if structure_ratio is not None:
            counts = self.counts(structure_ratio)
        else:
            assert ratio is not None
            counts = self.counts_for_parameters(ratio)
        if not any(count for of_kind in counts.values() for count in of_kind.values()):
            raise UserError(
                f"a ratio of {structure_ratio or ratio} removes nothing from layers {self.range()}",
                "choose a larger one: a layer loses whole heads and channels",
            )
        return counts

    def check_most(self, ratio: float) -> None:
        """UserError if the layers together, one unit of each kind staying in each, hold too little for `ratio`."""
        most = self.parameters(self.counts(1.0)) / self.total
        if most < ratio - TOLERANCE:
            raise UserError(
                f"a ratio of {ratio} cannot be reached: layers {self.range()} "
                f"hold {most:.1%} of all parameters at the most",
                "prune more layers (prune.layers) or choose a smaller ratio",
            )

    def range(self) -> str:
        return f"{min(self.units['heads'])} to {max(self.units['heads'])}"

    def counts_for_parameters(self, ratio: float) -> Counts:
        """Those of the structure ratio whose cut comes nearest to `ratio` of all parameters.

        Heads are coarse: where all layers lose one more at once the cut jumps. So heads follow the structure ratio on
        either side of the jump, and the channels alone are then cut to make up for the rest; the nearer side wins.
        """
        self.check_most(ratio)
        target = ratio * self.total
        cuts = []
        for heads in _around(lambda r: self.parameters(self.counts(r)), target):
            cuts.append(self.counts(heads))
            removed = partial(self._parameters_at, heads)
            cuts += [self.counts(heads, channels) for channels in _around(removed, target)]
        best = min(cuts, key=lambda counts: abs(self.parameters(counts) - target))
        reached = self.parameters(best) / self.total
        if abs(reached - ratio) > TOLERANCE:
            raise UserError(
                f"a ratio of {ratio} cannot be reached within {TOLERANCE:.1%}: the nearest cut removes {reached:.2%}",
                "the units are too coarse: set heads: pooled, scope: global, or a smaller round_to",
            )
        return best


def _around(removed: Callable[[float], int], target: float) -> tuple[float, float]:
    """Two ratios next to each other between which `removed` passes the target."""
    low, high = 0.0, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        if removed(middle) < target:
            low = middle
        else:
            high = middle
    return low, high


def _importance(scores: Tensor) -> float:
    """The sum over the units that are there."""
    return float(scores[~scores.isneginf()].sum())


def _floor(value: float) -> int:
    return math.floor(value + 1e-9)  # 0.3 · 10 is 3, not 2.9999…
