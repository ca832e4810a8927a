"""The search objective: perplexity of a candidate's pruned model, at the cost of its arithmetic.

Hidden states in front of the first pruned layer never change between trials, so they are computed once, for the pool
and for the search texts. A candidate is evaluated layer by layer on all texts; a layer's sliced weights exist only
while the layer runs, and the model is neither copied nor reloaded. Statistics that are means over the samples are kept
passage by passage: a set of samples then costs only the passages that are new.

A candidate races against the best so far: it is measured on an eighth of the search texts, then on as much again, and
so on, and given up as soon as it is hopeless. Both are measured on the same windows, so what counts is the difference
window by window: windows differ far more from each other than a window does under two similar models. A candidate is
hopeless if, going by the windows so far, a candidate as good as the best one would look better than it in four cases
of five: the few good ones that are lost cost less than measuring every poor one. What a search returns was measured
whole.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.methods.prune import cut_settings, decide
from reproducer.methods.registry import Decision, Method
from reproducer.methods.space import Scalar
from reproducer.models.tokens import Tokens, counting
from reproducer.models.walk import BATCH_TOKENS, LayerWalk, frozen
from reproducer.pruning.allocation import check_layers
from reproducer.pruning.collect import Limits, collect
from reproducer.pruning.cut import Cut
from reproducer.pruning.passages import KEPT_BYTES, PassageFiles, PassageStatistics, together
from reproducer.pruning.plan import Plan
from reproducer.pruning.statistics import Statistic, Statistics, WeightStatistic

ACTIVATION_BYTES = 2**31
STATISTICS_KEPT = 128  # statistics of sample sets that stay in memory: a few MB each
SHARE = 8  # one window in eight is in the first stage of a race, which has at least
LEAST = 4  # windows of a text: the spread of fewer says nothing
CHANCE = 0.2  # that a candidate as good as the best is given up at a stage: windows left out pay for other candidates


@dataclass(frozen=True)
class Measured:
    """What a candidate was found to be.

    Attributes:
        value: the objective, of the windows so far if `stopped`.
        losses: mean loss of each window, in the order of the race, to compare later candidates with.
        stopped: whether the rest of the windows was left out.
        estimate: the objective of all windows; of a stopped candidate, the best one's, by as much higher or lower as
            the candidate's is on the windows so far.
    """

    value: float
    losses: list[float]
    stopped: bool
    estimate: float


class Objective:
    """Prunes and evaluates candidates on one model.

    Args:
        model: the dense base model; left untouched.
        pool: LongTensor [passages, length], the calibration pool.
        texts: search text name -> LongTensor [windows, seq_len].
        layers: indices of the layers to prune.
        allocation: how much to prune.
        limits: memory that the statistics may take.
        passage_bytes: memory for statistics of single passages.
        passages: folder where statistics of single passages of this model and these layers are shared.

    Attributes:
        sample_tokens: tokens that went forward and backward for statistics, so far.
        text_tokens: tokens that went forward to be evaluated, so far.
    """

    def __init__(
        self,
        model: nn.Module,
        pool: Tensor,
        texts: Mapping[str, Tensor],
        layers: Sequence[int] | None,
        allocation: Cut,
        limits: Limits | None = None,
        passage_bytes: int = KEPT_BYTES,
        passages: Path | None = None,
    ) -> None:
        self.model, self.pool, self.texts, self.allocation = model, pool, dict(texts), allocation
        self.limits = limits or Limits(activations=ACTIVATION_BYTES)
        length = next(iter(self.texts.values())).shape[1]
        self.text_walk = LayerWalk(model, length)
        self.pool_walk = self.text_walk if pool.shape[1] == length else LayerWalk(model, pool.shape[1])
        self.architecture = self.text_walk.architecture
        self.layers = check_layers(layers, len(self.text_walk.layers))
        self.sample_tokens = self.text_tokens = 0
        self._tokens = Tokens()
        self._kept: OrderedDict[tuple[tuple[int, ...], Statistic], _OfModules] = OrderedDict()
        self._files = PassageFiles(passages, self._tokens) if passages else None
        self._passages = PassageStatistics(pool, together(model, len(pool)), passage_bytes, self._files)
        self._pool_below: dict[int, Tensor] = {}
        self._windows = torch.cat(list(self.texts.values()))
        sizes = [len(windows) for windows in self.texts.values()]
        self._text_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        with frozen(model), torch.no_grad():
            self._race = [self._batches(windows) for windows in stages(sizes)]
        self._all = [batch for batches in self._race for batch in batches]

    def spent(self) -> dict[str, float]:
        """What has gone through the model so far, by the names of `Costs`."""
        layers, found = len(self.text_walk.layers), self._files.found if self._files else 0
        return {
            "sample_tokens": self.sample_tokens + found * self.pool.shape[1],
            "text_tokens": self.text_tokens,
            "forward_tokens": self._tokens.forward / layers,
            "backward_tokens": self._tokens.backward / layers,
        }

    def expect(self, needs: Iterable[Statistic]) -> None:
        """Say what will be asked for: whatever of it can be kept passage by passage is then collected in one pass."""
        self._passages.watch(statistic for statistic in needs if statistic.additive)

    def prepare(self, passages: Sequence[int], progress: Callable[[int, int], None]) -> None:
        """Collect what is kept passage by passage of these; `progress` is told how many are done, and of how many."""
        for done, passage in enumerate(passages if self._passages.watched else ()):
            progress(done, len(passages))
            self._passages.mean([passage], self._passages.watched, self._apart)

    def _apart(self, samples: Sequence[int], wanted: Iterable[Statistic]) -> Statistics:
        return self._collect(samples, wanted, per_sample=True)

    def statistics(self, samples: Sequence[int], needs: Iterable[Statistic]) -> Statistics:
        """Statistics of these pool passages; what an earlier call collected for the same passages is not redone."""
        key, needs = tuple(samples), sorted(set(needs), key=repr)
        missing = {statistic for statistic in needs if (key, statistic) not in self._kept}
        of_weights = {statistic for statistic in missing if isinstance(statistic, WeightStatistic)}
        known = {statistic for statistic in missing - of_weights if self._passages.known(key, statistic)}
        for wanted in (of_weights, known, missing - of_weights - known):  # what has to be collected, in one pass
            if not wanted:
                continue
            if all(statistic.additive for statistic in wanted):
                collected = self._passages.mean(key, wanted, self._apart)
            else:
                collected = self._collect(key, wanted)
            for index, modules in collected.items():
                for module, values in modules.items():
                    for statistic, value in values.items():
                        self._kept.setdefault((key, statistic), {})[index, module] = value
        found: Statistics = {index: {} for index in self.layers}
        for statistic in needs:
            self._kept.move_to_end((key, statistic))
            for (index, module), value in self._kept[key, statistic].items():
                found[index].setdefault(module, {})[statistic] = value
        while len(self._kept) > STATISTICS_KEPT:
            self._kept.popitem(last=False)
        return found

    def plan(self, method: Method, parameters: Mapping[str, Scalar], samples: Sequence[int], seed: int = 0) -> Plan:
        """The plan of a method with these parameters on these samples.

        Raises:
            UserError: the method trains before it cuts.
        """
        rule = method.make(parameters)
        if isinstance(rule, Decision) and rule.train is not None:
            raise UserError(f"{method.name} trains before it cuts, which a search cannot do for every candidate")
        statistics = self.statistics(samples, rule.needs)
        with counting(self.model, self._tokens):  # a decision may run the model
            return decide(
                self.model,
                rule,
                statistics,
                layers=self.layers,
                cut=self.allocation,
                ids=self.pool[list(samples)] if method.calibrated else None,
                seed=seed,
                method=method.name,
                settings=cut_settings(self.allocation, seed, parameters),
            )

    def perplexities(self, plan: Plan | None) -> dict[str, float]:
        """Perplexity of the model under `plan` (None: the dense model) on every search text."""
        return dict(zip(self.texts, self._perplexities(self._losses(plan, self._all), self._all), strict=True))

    def value(self, plan: Plan | None) -> float:
        """The objective: the mean of the perplexities (Kong et al. 2025, Eq. 6)."""
        return self.measure(plan).value

    def measure(self, plan: Plan | None, against: Sequence[float] | None = None, chance: float = CHANCE) -> Measured:
        """The objective of `plan`; stopped after a stage of the race that says that it is hopeless.

        Args:
            against: `losses` of the best plan so far. None: measure all windows, whatever the first ones say.
            chance: that a plan as good as that is given up at a stage.
        """
        race = [self._all] if against is None else self._race  # at once, a layer is sliced once for all windows
        best = torch.tensor(against or [], dtype=torch.float64)
        batches: list[_Batch] = []
        losses, stopped = best.new_empty(0), False
        for stage, more in enumerate(race, 1):
            batches, losses = [*batches, *more], torch.cat([losses, self._losses(plan, more)])
            if stage < len(race) and hopeless(losses, best[: len(losses)], self._texts_of(batches), chance):
                stopped = True
                break
        value = estimate = self._mean(losses, batches)
        if stopped:
            estimate = value / self._mean(best[: len(losses)], batches) * self._mean(best, self._all)
        return Measured(value, losses.tolist(), stopped, estimate)

    def _losses(self, plan: Plan | None, batches: Sequence[_Batch]) -> Tensor:
        """Mean loss of every window of `batches` under `plan`, float64 [windows] on the CPU."""
        self.text_tokens += sum(batch.below.shape[0] * batch.below.shape[1] for batch in batches)
        walk, first = self.text_walk, self.layers[0]
        with frozen(self.model), torch.no_grad(), counting(self.model, self._tokens):
            hidden = [batch.below for batch in batches]
            if plan is not None and self._reaches_out(plan):  # then on a model of its own, from the embedding on
                walk, first = LayerWalk(plan.apply(self.model), self._windows.shape[1]), 0
                hidden = [walk.embed(self._windows[batch.windows]) for batch in batches]
                plan = None
            for index in range(first, len(walk.layers)):
                layer: nn.Module | None = walk.layers[index]
                if plan is not None:
                    layer = plan.layer(index, walk.layers[index], self.architecture)
                if layer is not None:
                    hidden = [walk.run(index, part, layer) for part in hidden]
            losses = [walk.losses(part, self._windows[b.windows]) for part, b in zip(hidden, batches, strict=True)]
        return torch.cat(losses).double().mean(1).cpu()

    def _reaches_out(self, plan: Plan) -> bool:
        """Whether a plan changes anything below the layers to prune, or outside of the decoder's layers."""
        prefix = f"{self.architecture.layers}."
        of = [int(name[len(prefix) :].split(".")[0]) if name.startswith(prefix) else -1 for name in plan.tensors]
        return any(index < self.layers[0] for index in [*of, *plan.removed_layers, *plan.layers])

    def _mean(self, losses: Tensor, batches: Sequence[_Batch]) -> float:
        return sum(self._perplexities(losses, batches)) / len(self.texts)

    def _perplexities(self, losses: Tensor, batches: Sequence[_Batch]) -> list[float]:
        texts = self._texts_of(batches)
        return [float(losses[texts == text].mean().exp()) for text in range(len(self.texts))]

    def _texts_of(self, batches: Sequence[_Batch]) -> Tensor:
        return torch.cat([self._text_of[batch.windows] for batch in batches])

    def _batches(self, windows: Sequence[int]) -> list[_Batch]:
        parts = torch.tensor(windows, dtype=torch.long).split(max(1, BATCH_TOKENS // self._windows.shape[1]))
        return [_Batch(part, self._run_below(self.text_walk, self._windows[part])) for part in parts if len(part)]

    def _collect(self, samples: Sequence[int], wanted: Iterable[Statistic], per_sample: bool = False) -> Statistics:
        wanted = set(wanted)
        if all(isinstance(statistic, WeightStatistic) for statistic in wanted):
            return collect(self.model, None, self.layers, wanted, self.limits, walk=self.pool_walk)
        ids, below = self.pool[list(samples)], self._below_pool(samples)
        self.sample_tokens += ids.numel()
        with counting(self.model, self._tokens):
            return collect(
                self.model,
                ids,
                self.layers,
                wanted,
                self.limits,
                walk=self.pool_walk,
                below=below,
                per_sample=per_sample,
            )

    def _run_below(self, walk: LayerWalk, ids: Tensor) -> Tensor:
        hidden = walk.embed(ids)
        with counting(self.model, self._tokens):
            for index in range(self.layers[0]):
                hidden = walk.run(index, hidden)
        return hidden

    def _below_pool(self, samples: Sequence[int]) -> Tensor:
        """Hidden states of pool passages in front of the first pruned layer, each passage computed once and alone."""
        with frozen(self.model), torch.no_grad():
            for index in samples:
                if index not in self._pool_below:
                    self._pool_below[index] = self._run_below(self.pool_walk, self.pool[index : index + 1])
        return torch.cat([self._pool_below[index] for index in samples])


@dataclass(frozen=True)
class _Batch:
    """Search windows that run through a layer together.

    Attributes:
        windows: LongTensor of their indices.
        below: their hidden states [windows, seq_len, width] in front of the first pruned layer.
    """

    windows: Tensor
    below: Tensor


_OfModules = dict[tuple[int, str], Tensor]  # (layer, module) -> one statistic


def stages(sizes: list[int]) -> list[list[int]]:
    """Indices of the windows that are new in each stage of a race; one stage where a text is too short for more.

    What a stage and those before it have seen is evenly spread over each text.

    Args:
        sizes: windows of each text; the windows of all texts are numbered in a row.
    """
    if min(sizes) < 2 * LEAST:
        return [list(range(sum(sizes)))]
    starts = [sum(sizes[:text]) for text in range(len(sizes))]
    orders = [[start + place for place in spread_order(size)] for start, size in zip(starts, sizes, strict=True)]
    found, seen, share = [], [0] * len(sizes), SHARE
    while seen != sizes:
        ends = [min(size, max(LEAST, -(-size // share))) for size in sizes]
        found.append([one for order, a, b in zip(orders, seen, ends, strict=True) for one in sorted(order[a:b])])
        seen, share = ends, max(1, share // 2)
    return [windows for windows in found if windows]


def spread_order(size: int) -> list[int]:
    """0 to `size` - 1 in an order of which every beginning is spread evenly: by their bits read backwards."""
    bits = max(1, (size - 1).bit_length())
    return sorted(range(size), key=lambda place: int(f"{place:0{bits}b}"[::-1], 2))


def hopeless(candidate: Tensor, best: Tensor, texts: Tensor, chance: float = CHANCE) -> bool:
    """Whether the candidate cannot plausibly become better than the best so far.

    The objective is the mean over the texts of exp(mean loss). With `d` the mean difference of losses on a text and `s`
    its standard error, the candidate's perplexity there is the best one's times exp(d), and its error that times `s`.
    The sum of the differences over its error has Student's distribution, with the degrees of freedom of Welch (1947).

    Args:
        candidate, best: mean losses [windows] of the same windows.
        texts: LongTensor [windows], which text a window is of.
        chance: that this says so of a candidate as good as the best.
    """
    above, variances, freedom = 0.0, [], []
    for text in texts.unique():
        of_text = texts == text
        differences, level = (candidate - best)[of_text].double(), best[of_text].double().mean()
        ratio = differences.mean().exp()
        error = differences.std() / len(differences) ** 0.5
        above += float(level.exp() * (ratio - 1))
        variances.append(float((level.exp() * ratio * error) ** 2))
        freedom.append(len(differences) - 1)
    variance = sum(variances)
    if not math.isfinite(variance):
        return False  # it is measured whole, and then has no objective
    if variance == 0:
        return above > 0
    degrees = variance**2 / sum(one**2 / of for one, of in zip(variances, freedom, strict=True))
    return above > float(student.isf(chance, degrees)) * variance**0.5
