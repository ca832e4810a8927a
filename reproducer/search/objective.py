"""The search objective: perplexity of a candidate's pruned model, at the cost of its arithmetic.

Hidden states in front of the first pruned layer never change between trials, so they are computed once, for the pool
and for the search texts. A candidate is evaluated layer by layer on all texts; a layer's sliced weights exist only
while the layer runs, and the model is neither copied nor reloaded. Statistics that are means over the samples are kept
passage by passage: a set of samples then costs only the passages that are new.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from reproducer.errors import UserError
from reproducer.methods.prune import decide
from reproducer.methods.registry import Method, Request
from reproducer.methods.space import Scalar
from reproducer.models.tokens import Tokens, counting
from reproducer.models.walk import BATCH_TOKENS, LayerWalk, frozen
from reproducer.pruning.allocation import check_layers
from reproducer.pruning.collect import Limits, collect
from reproducer.pruning.cut import Cut
from reproducer.pruning.passages import KEPT_BYTES, PassageFiles, PassageStatistics, together
from reproducer.pruning.plan import Plan
from reproducer.pruning.statistics import Statistic, Statistics, WeightStatistic
from reproducer.search.race import CHANCE, hopeless, race_rounds

ACTIVATION_BYTES = 2**31
STATISTICS_KEPT = 128  # statistics of sample sets that stay in memory: a few MB each

OfModules = dict[tuple[int, str], Tensor]  # (layer, module) -> a statistic


@dataclass(frozen=True)
class Measurement:
    """What was measured of a candidate.

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
        cut: how much to prune.
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
        cut: Cut,
        passage_bytes: int = KEPT_BYTES,
        passages: Path | None = None,
    ) -> None:
        self.model, self.pool, self.texts, self.cut = model, pool, dict(texts), cut
        length = next(iter(self.texts.values())).shape[1]
        self.text_walk = LayerWalk(model, length)
        self.pool_walk = self.text_walk if pool.shape[1] == length else LayerWalk(model, pool.shape[1])
        self.architecture, count = self.text_walk.architecture, len(self.text_walk.layers)
        self.layers = check_layers(cut.within(count) if layers is None else layers, count)
        self.sample_tokens = self.text_tokens = 0
        self._tokens = Tokens()
        self._kept: OrderedDict[tuple[tuple[int, ...], Statistic], OfModules] = OrderedDict()
        self._files = PassageFiles(passages, self._tokens) if passages else None
        self._passages = PassageStatistics(pool, together(model, len(pool)), passage_bytes, self._files)
        self._pool_below: dict[int, Tensor] = {}
        self._windows = torch.cat(list(self.texts.values()))
        sizes = [len(windows) for windows in self.texts.values()]
        self._text_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        with frozen(model), torch.no_grad():
            self._rounds = [self._batches(windows) for windows in race_rounds(sizes)]
        self._all = [batch for batches in self._rounds for batch in batches]

    def spent(self) -> dict[str, float]:
        """What has gone through the model so far, by the names of `Costs`."""
        layers, read = len(self.text_walk.layers), self._files.reused if self._files else 0
        return {
            "sample_tokens": self.sample_tokens + read * self.pool.shape[1],
            "text_tokens": self.text_tokens,
            "forward_tokens": self._tokens.forward / layers,
            "backward_tokens": self._tokens.backward / layers,
        }

    def expect(self, needs: Iterable[Statistic]) -> None:
        """Say what will be asked for: whatever of it can be kept passage by passage is then collected in one pass."""
        self._passages.watch(statistic for statistic in needs if statistic.additive)

    def prepare(self, passages: Sequence[int], progress: Callable[[int, int], None]) -> None:
        """Collect what is kept passage by passage of these; `progress` gets how many are done, and of how many."""
        for done, passage in enumerate(passages if self._passages.watched else ()):
            progress(done, len(passages))
            self._passages.mean([passage], self._passages.watched, self._collect_apart)

    def statistics(self, samples: Sequence[int], needs: Iterable[Statistic]) -> Statistics:
        """Statistics of these pool passages; what an earlier call collected for the same passages is not redone."""
        key, needs = tuple(samples), sorted(set(needs), key=repr)
        missing = {statistic for statistic in needs if (key, statistic) not in self._kept}
        of_weights: set[Statistic] = {statistic for statistic in missing if isinstance(statistic, WeightStatistic)}
        known = {statistic for statistic in missing - of_weights if self._passages.known(key, statistic)}
        for wanted in (of_weights, known, missing - of_weights - known):  # the last have to be collected, in one pass
            if wanted:
                self._keep(key, wanted)
        statistics: Statistics = {index: {} for index in self.layers}
        for statistic in needs:
            self._kept.move_to_end((key, statistic))
            for (index, module), value in self._kept[key, statistic].items():
                statistics[index].setdefault(module, {})[statistic] = value
        while len(self._kept) > STATISTICS_KEPT:
            self._kept.popitem(last=False)
        return statistics

    def _keep(self, samples: tuple[int, ...], wanted: set[Statistic]) -> None:
        if all(statistic.additive for statistic in wanted):
            collected = self._passages.mean(samples, wanted, self._collect_apart)
        else:
            collected = self._collect(samples, wanted)
        for index, modules in collected.items():
            for module, values in modules.items():
                for statistic, value in values.items():
                    self._kept.setdefault((samples, statistic), {})[index, module] = value

    def plan(self, method: Method, parameters: Mapping[str, Scalar], samples: Sequence[int], seed: int = 0) -> Plan:
        """The plan of a method with these parameters on these samples.

        Raises:
            UserError: the method trains before it cuts.
        """
        ids = self.pool[list(samples)] if method.calibrated else None
        request = Request(self.model, method, self.cut, parameters, ids=ids, layers=self.layers, seed=seed)
        if method.trains:
            raise UserError(f"{method.name} trains before it cuts, which a search cannot do for every candidate")
        statistics = self.statistics(samples, request.rule.needs)
        with counting(self.model, self._tokens):  # a decision may run the model
            return decide(replace(request, statistics=statistics))

    def value(self, plan: Plan | None) -> float:
        """The objective: the mean of the perplexities (Kong et al. 2025, Eq. 6)."""
        return self.measure(plan).value

    def measure(
        self, plan: Plan | None, best_losses: Sequence[float] | None = None, chance: float = CHANCE
    ) -> Measurement:
        """The objective of `plan`; it is given up after a round of the race in which it is hopeless.

        Args:
            best_losses: `losses` of the best plan so far. None: measure all windows, whatever the first ones say.
            chance: that a round gives up a plan as good as that.
        """
        rounds = [self._all] if best_losses is None else self._rounds  # at once, a layer is sliced once for all windows
        best = torch.tensor(best_losses or [], dtype=torch.float64)
        batches: list[_Batch] = []
        losses, stopped = best.new_empty(0), False
        for number, more in enumerate(rounds, 1):
            batches, losses = [*batches, *more], torch.cat([losses, self._losses(plan, more)])
            if number < len(rounds) and hopeless(losses, best[: len(losses)], self._texts_of(batches), chance):
                stopped = True
                break
        value = estimate = self._mean(losses, batches)
        if stopped:
            estimate = value / self._mean(best[: len(losses)], batches) * self._mean(best, self._all)
        return Measurement(value, losses.tolist(), stopped, estimate)

    def _losses(self, plan: Plan | None, batches: Sequence[_Batch]) -> Tensor:
        """Mean loss of every window of `batches` under `plan`, float64 [windows] on the CPU."""
        self.text_tokens += sum(batch.below.shape[0] * batch.below.shape[1] for batch in batches)
        walk, first = self.text_walk, self.layers[0]
        with frozen(self.model), torch.no_grad(), counting(self.model, self._tokens):
            hidden = [batch.below for batch in batches]
            if plan is not None and self._changes_more(plan):  # then on a model of its own, from the embedding on
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

    def _changes_more(self, plan: Plan) -> bool:
        """Whether a plan changes anything below the layers to prune, or outside of the decoder's layers."""
        prefix = f"{self.architecture.layers}."
        layers = [int(name[len(prefix) :].split(".")[0]) if name.startswith(prefix) else -1 for name in plan.tensors]
        return any(index < self.layers[0] for index in [*layers, *plan.removed_layers, *plan.layers])

    def _mean(self, losses: Tensor, batches: Sequence[_Batch]) -> float:
        """The mean over the texts of their perplexities on these windows."""
        texts = self._texts_of(batches)
        return sum(float(losses[texts == text].mean().exp()) for text in range(len(self.texts))) / len(self.texts)

    def _texts_of(self, batches: Sequence[_Batch]) -> Tensor:
        return torch.cat([self._text_of[batch.windows] for batch in batches])

    def _batches(self, windows: Sequence[int]) -> list[_Batch]:
        parts = torch.tensor(windows, dtype=torch.long).split(max(1, BATCH_TOKENS // self._windows.shape[1]))
        return [_Batch(part, self._run_below(self.text_walk, self._windows[part])) for part in parts if len(part)]

    def _collect(self, samples: Sequence[int], wanted: Iterable[Statistic], per_sample: bool = False) -> Statistics:
        wanted, limits = set(wanted), Limits(activations=ACTIVATION_BYTES)
        if all(isinstance(statistic, WeightStatistic) for statistic in wanted):
            return collect(self.model, None, self.layers, wanted, limits, walk=self.pool_walk)
        ids, below = self.pool[list(samples)], self._below_pool(samples)
        self.sample_tokens += ids.numel()
        with counting(self.model, self._tokens):
            walk = self.pool_walk
            return collect(self.model, ids, self.layers, wanted, limits, walk=walk, below=below, per_sample=per_sample)

    def _collect_apart(self, samples: Sequence[int], wanted: Iterable[Statistic]) -> Statistics:
        return self._collect(samples, wanted, per_sample=True)

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
