"""How many units each layer keeps, and which: `allocate` by ratios of each layer, `remove_lowest` over all layers.

`structure_ratio` is LLM-Pruner's: every pruned layer loses floor(ratio · units) heads and channels. `ratio` is the
fraction of *all* parameters: the structure ratio whose cut comes nearest to it is searched for.

Scope `local` removes the same number from every layer; `global` ranks the units of all layers together by score, each
kind by itself; `parameters` ranks all of them by score per parameter (see `remove_lowest`); `uniform` leaves every
layer of one shape, which a family's own configuration can say: where rounded channels are too coarse for the ratio, the
nearest cut is taken.

With grouped-query attention a layer has few groups (SmolLM2: 3), and a local cut would round to none or to a third of
the attention. So groups are *pooled* there by default: the layers together lose floor(ratio · all groups), the ones
with the smallest share of their own layer's importance, at least one staying in each layer. A share makes layers
comparable whose scores differ in scale. `heads` = local, pooled or auto (pooled for grouped-query models) decides.

A score of -inf is that of a unit which is gone already: it is among those that go, however few these would be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of, layer_shape, parameter_count, unit_parameters
from reproducer.models.declaration import Architecture, Kind
from reproducer.pruning.cut import Cut

if TYPE_CHECKING:
    from torch import Tensor, nn

Scores = Mapping[int, Mapping[str, "Tensor"]]  # layer -> kind -> [units]
Kept = dict[str, dict[int, list[int]]]
Counts = dict[str, dict[int, int]]

TOLERANCE = 0.005  # by which a cut may miss a ratio of all parameters


def check_layers(layers: Iterable[int], count: int) -> list[int]:
    """Sorted layer indices. UserError if one is out of range."""
    indices = sorted(set(layers))
    if not indices or indices[0] < 0 or indices[-1] >= count:
        named = f"{indices[0]} to {indices[-1]}" if indices else "none"
        raise UserError(f"layers to prune: {named}; the model has layers 0 to {count - 1}")
    return indices


def allocate(model: nn.Module, architecture: Architecture, scores: Scores, settings: Cut) -> Kept:
    """The units to keep of every layer in `scores`: {kind: {layer: sorted unit indices}}.

    Raises:
        UserError: the ratio cannot be reached with these layers (says how much can), or nothing would be removed.
    """
    if settings.scope == "parameters":
        layers = architecture.decoder_layers(model)
        per_parameter = {
            index: {
                kind.name: of_layer[kind.name].double() / unit_parameters(layers[index], architecture, kind)
                for kind in architecture.kinds
            }
            for index, of_layer in scores.items()
        }
        remove = parameters_to_remove(model, scores, settings)
        kept = remove_lowest(model, architecture, per_parameter, remove, settings.round_to)
        if all(len(kept[kind][index]) == len(units) for index, of in scores.items() for kind, units in of.items()):
            raise _nothing(settings, scores)
        return kept
    cut = _Allocator(model, architecture, scores, settings)
    return cut.kept(cut.decide())


def check_reachable(model: nn.Module, layers: Iterable[int] | None, settings: Cut, steps: int = 1) -> None:
    """Refuse what `allocate` would refuse whatever the scores, before any is known; a meta device will do.

    That no cut of these layers removes enough, or that any cut removes nothing, never depends on scores. That the
    nearest cut misses the ratio does not either where layers are of one shape, unless a global cut is rounded or ranked
    by parameter.

    Args:
        layers: those to prune; by default the cut's.
        steps: equal cuts that it is reached in, each of which has to be reached and to remove something.

    Raises:
        UserError: as `allocate` does, or a layer is out of range.
    """
    architecture = architecture_of(model)
    blocks = architecture.decoder_layers(model)
    chosen = check_layers(settings.within(len(blocks)) if layers is None else layers, len(blocks))
    ones = _ones(model, architecture, chosen)
    shapes = [layer_shape(blocks[index], architecture) for index in ones]
    by_scores = settings.scope == "parameters" or (settings.scope == "global" and settings.round_to > 1)
    known = all(shape == shapes[0] for shape in shapes) and not by_scores
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
    cut = _Allocator(model, architecture, _ones(model, architecture, layers), settings)
    return cut.parameters(cut.counts(settings.structure_ratio))


def _ones(model: nn.Module, architecture: Architecture, layers: Iterable[int]) -> Scores:
    """The same score for all units."""
    import torch

    blocks = architecture.decoder_layers(model)
    counts = {index: layer_shape(blocks[index], architecture).counts for index in layers}
    return {index: {kind: torch.ones(count) for kind, count in of_layer.items()} for index, of_layer in counts.items()}


def remove_lowest(
    model: nn.Module,
    architecture: Architecture,
    scores: Scores,
    remove: int,
    round_to: int = 1,
) -> Kept:
    """The units that stay when those of the lowest scores go, of all kinds and layers, until `remove` is reached.

    A head that is larger than what is still to go is passed over: the channels behind it make up for it. At least one
    unit of each kind stays in each layer.

    Args:
        scores: {layer: {kind: [units]}}, comparable over layers and kinds; what is absent is not cut.
        remove: parameters to take away; 0 keeps all.
        round_to: a layer that loses units of a fine kind (channels) keeps a multiple of this; they go in blocks, ranked
            by their mean score.

    Returns:
        {kind: {layer: sorted units that stay}} of all that has a score.

    Raises:
        UserError: the units hold too little, or the nearest cut misses `remove` by more than half a point of all
            parameters.
    """
    total, blocks = parameter_count(model), sorted(_blocks(model, architecture, scores, round_to))
    most = sum(block.parameters for block in blocks)
    if most < remove - TOLERANCE * total:
        raise UserError(
            f"{remove / total:.1%} of all parameters cannot be removed: what may be cut of layers {min(scores)} to "
            f"{max(scores)} holds {most / total:.1%} at the most",
            "prune more layers (prune.layers) or choose a smaller ratio",
        )
    gone, stay, left = [], [], remove
    for block in blocks:
        if block.parameters <= left:
            gone.append(block)
            left -= block.parameters
        else:
            stay.append(block)
    nearer = next((block for block in stay if block.parameters < 2 * left), None)  # one more, if that misses by less
    if nearer is not None:
        gone.append(nearer)
        left -= nearer.parameters
    if abs(left) > TOLERANCE * total:
        raise UserError(
            f"{remove / total:.2%} of all parameters cannot be removed within {TOLERANCE:.1%}: "
            f"the nearest cut removes {(remove - left) / total:.2%}",
            "the units are too coarse: set a smaller round_to",
        )
    kept: Kept = {kind.name: {} for kind in architecture.kinds}
    removed = {(block.kind, block.layer, unit) for block in gone for unit in block.units}
    for index, of_layer in scores.items():
        for name, values in of_layer.items():
            kept[name][index] = [unit for unit in range(len(values)) if (name, index, unit) not in removed]
    return kept


class _Block(NamedTuple):
    """Units of one layer and kind that go together, in the order in which blocks go; `parameters` is what they hold."""

    score: float
    layer: int
    kind: str
    place: int
    units: list[int]
    parameters: int


def _blocks(model: nn.Module, architecture: Architecture, scores: Scores, round_to: int) -> Iterator[_Block]:
    """All that may go: of a fine kind `round_to` units together, by their mean score. The last of each layer stay."""
    layers = architecture.decoder_layers(model)
    for index, of_layer in scores.items():
        for name, values in of_layer.items():
            kind = architecture.kind(name)
            cost, step = unit_parameters(layers[index], architecture, kind), round_to if kind.fine else 1
            of_units: list[float] = values.double().tolist()
            order = sorted(range(len(of_units)), key=lambda unit: (of_units[unit], unit))
            for place, (start, stop) in enumerate(pairwise([0, *range(len(order) % step, len(order), step)])):
                if units := order[start:stop]:
                    score = math.fsum(of_units[unit] for unit in units) / len(units)
                    yield _Block(score, index, name, place, units, cost * len(units))


class _Allocator:
    def __init__(self, model: nn.Module, architecture: Architecture, scores: Scores, settings: Cut) -> None:
        self.settings = settings
        layers = architecture.decoder_layers(model)
        shapes = {index: layer_shape(layers[index], architecture) for index in scores}
        self.uniform = settings.scope == "uniform"
        self.shape, self.sized = shapes[min(shapes)], hasattr(model.config, "head_dim")
        if self.uniform and (len(shapes) < len(layers) or any(shape != self.shape for shape in shapes.values())):
            why = "some layers are not pruned" if len(shapes) < len(layers) else "they differ already"
            raise UserError(f"a uniform cut leaves all layers alike, but {why}", "leave prune.layers or uniform out")
        self.pooled = settings.pools(shapes.values())
        self.kinds = architecture.kinds
        self.units = {kind.name: {index: shapes[index].counts[kind.name] for index in scores} for kind in self.kinds}
        self.cost = {
            kind.name: {index: unit_parameters(layers[index], architecture, kind) for index in scores}
            for kind in self.kinds
        }
        self.scores = {kind.name: {index: scores[index][kind.name].double() for index in scores} for kind in self.kinds}
        self.gone = {
            kind: {index: int(values.isneginf().sum()) for index, values in of_kind.items()}
            for kind, of_kind in self.scores.items()
        }
        self.total = parameter_count(model)
        # Ascending order of each layer's units; a stable sort, so that ties fall the same way everywhere.
        self.order = {
            kind: {index: values.argsort(stable=True).tolist() for index, values in of_kind.items()}
            for kind, of_kind in self.scores.items()
        }
        shares = settings.scope == "local"
        self.ranking = {kind.name: self._ranking(kind.name, shares) for kind in self.kinds if self._together(kind)}

    def _together(self, kind: Kind) -> bool:
        """Whether the units of all layers are ranked together."""
        return self.settings.scope == "global" or (self.pooled and not kind.fine)

    def _ranking(self, kind: str, shares: bool) -> list[int]:
        """Layers in the order in which they lose units of `kind`, all ranked together; one unit a layer stays."""
        entries = []
        for index, scores in self.scores[kind].items():
            values, scale = scores.tolist(), _importance(scores) if shares else 1.0
            for place, unit in enumerate(self.order[kind][index][:-1]):
                entries.append((values[unit] / (scale or 1.0), place, index))
        return [index for _, _, index in sorted(entries)]

    def removed(self, kind: Kind, ratio: float) -> dict[int, int]:
        """How many units of `kind` each layer loses, the ones that are gone already among them."""
        units, gone = self.units[kind.name], self.gone[kind.name]
        if self._together(kind):
            ranking = self.ranking[kind.name]
            going = Counter(ranking[: max(_floor(ratio * sum(units.values())), sum(gone.values()))])
            return {index: going[index] for index in units}
        lost = {index: max(min(_floor(ratio * count), count - 1), gone[index]) for index, count in units.items()}
        return self._sayable(kind, lost) if self.uniform and kind.attends else lost

    def _sayable(self, kind: Kind, removed: dict[int, int]) -> dict[int, int]:
        """As many heads less as a family's own configuration can say: with a `head_dim`, a divisor of the width."""
        units, lost = self.shape.counts[kind.name], next(iter(removed.values()))
        while lost and not (self.sized and self.shape.hidden % (self.shape.queries_per_group * (units - lost)) == 0):
            lost -= 1
        return dict.fromkeys(removed, lost)

    def counts(self, ratio: float, fine: float | None = None) -> Counts:
        """Units that each layer loses at a structure ratio; the fine kinds' own ratio if it differs."""
        counts: Counts = {}
        for kind in self.kinds:
            counts[kind.name] = self.removed(kind, ratio if fine is None or not kind.fine else fine)
            if kind.fine and self.settings.round_to > 1:
                counts[kind.name] = self._rounded(kind.name, counts[kind.name])
        return counts

    def _rounded(self, kind: str, removed: dict[int, int]) -> dict[int, int]:
        """Kept units as multiples of `round_to`, their sum over the layers as near to the unrounded one as can be.

        Every layer is rounded down; the blocks left over go to the layers whose next block holds the largest share of
        the layer's importance.
        """
        step, units = self.settings.round_to, self.units[kind]
        if step > min(units.values()):
            raise UserError(f"round_to is {step}, more than the {min(units.values())} {kind} of a layer")
        kept = {index: units[index] - count for index, count in removed.items()}
        if self.uniform:
            near = max(step, step * round(next(iter(kept.values())) / step))
            most = min(units[index] - self.gone[kind][index] for index in units) // step * step
            return {index: units[index] - min(near, max(step, most)) for index in units}
        down = {index: max(step, count // step * step) for index, count in kept.items()}
        spare = round((sum(kept.values()) - sum(down.values())) / step)

        def share(index: int) -> float:
            values, descending = self.scores[kind][index], self.order[kind][index][::-1]
            block = descending[down[index] : down[index] + step]
            return float(values[block].sum()) / (_importance(values) or 1.0)

        left = {index: units[index] - self.gone[kind][index] for index in down}
        candidates = [index for index in down if down[index] + step <= left[index]]
        for index in sorted(candidates, key=lambda index: (-share(index), index))[: max(spare, 0)]:
            down[index] += step
        return {index: units[index] - count for index, count in down.items()}

    def kept(self, counts: Counts) -> Kept:
        return {
            kind: {index: sorted(order[counts[kind][index] :]) for index, order in of_kind.items()}
            for kind, of_kind in self.order.items()
        }

    def parameters(self, counts: Counts) -> int:
        return sum(
            count * self.cost[kind][index] for kind, of_kind in counts.items() for index, count in of_kind.items()
        )

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
            raise _nothing(self.settings, self.units[self.kinds[0].name])
        return counts

    def check_most(self, ratio: float) -> None:
        """UserError if the layers together, one unit of each kind staying in each, hold too little for `ratio`."""
        most = self.parameters(self.counts(1.0)) / self.total
        if most < ratio - TOLERANCE:
            other = "do without uniform" if self.uniform else "prune more layers (prune.layers)"
            raise UserError(
                f"a ratio of {ratio} cannot be reached: layers {self.range()} "
                f"hold {most:.1%} of all parameters at the most",
                f"{other} or choose a smaller ratio",
            )

    def range(self) -> str:
        layers = self.units[self.kinds[0].name]
        return f"{min(layers)} to {max(layers)}"

    def counts_for_parameters(self, ratio: float) -> Counts:
        """Those of the structure ratio whose cut comes nearest to `ratio` of all parameters.

        Heads are coarse: where all layers lose one more at once the cut jumps. So coarse kinds follow the structure
        ratio on either side of the jump, and the fine ones alone are then cut to make up for the rest; the nearer side
        wins.
        """
        self.check_most(ratio)
        target = ratio * self.total
        cuts = []
        for coarse in _around(lambda r: self.parameters(self.counts(r)), target):
            cuts.append(self.counts(coarse))
            fines = _around(lambda fine, coarse=coarse: self.parameters(self.counts(coarse, fine)), target)  # type: ignore[misc]
            cuts += [self.counts(coarse, fine) for fine in fines]
        best = min(cuts, key=lambda counts: abs(self.parameters(counts) - target))
        reached = self.parameters(best) / self.total
        if abs(reached - ratio) > TOLERANCE and not self.uniform:
            raise UserError(
                f"a ratio of {ratio} cannot be reached within {TOLERANCE:.1%}: the nearest cut removes {reached:.2%}",
                "the units are too coarse: set heads: pooled, scope: global, or a smaller round_to",
            )
        return best


def _nothing(settings: Cut, layers: Iterable[int]) -> UserError:
    ratio, cut = settings.structure_ratio or settings.ratio, sorted(layers)
    return UserError(
        f"a ratio of {ratio} removes nothing from layers {cut[0]} to {cut[-1]}",
        "choose a larger one: a layer loses whole heads and channels",
    )


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
