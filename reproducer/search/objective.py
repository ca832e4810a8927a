"""The search objective: perplexity of a candidate's pruned model, at the cost of its arithmetic.

Hidden states in front of the first pruned layer never change between trials, so they are computed once, for the pool
and for the search texts. A candidate is evaluated layer by layer on all texts; a layer's sliced weights exist only
while the layer runs, and the model is neither copied nor reloaded. Statistics that are means over the samples are kept
passage by passage: a set of samples then costs only the passages that are new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reproducer.methods.registry import Rule
from reproducer.models.walk import BATCH_TOKENS, LayerWalk, frozen
from reproducer.pruning.allocation import Allocation
from reproducer.pruning.plan import Plan
from reproducer.pruning.scoring import check_layers, make_plan, structure_scores
from reproducer.pruning.statistics import ADDITIVE, Limits, Statistic, Statistics, collect
from reproducer.pruning.surgery import sliced_layer
from reproducer.search.passages import PassageStatistics
from reproducer.search.stopping import first_slice, hopeless

KEPT_BYTES = 2**31  # of activations, and as many again of statistics of single passages
STATISTICS_KEPT = 64  # sample sets whose statistics stay in memory: a few MB each


@dataclass(frozen=True)
class Measured:
    """What a candidate was found to be.

    Attributes:
        value: the objective, of the first slice alone if `stopped`.
        losses: mean loss of each window of the first slice, to compare later candidates with.
        stopped: whether the rest of the windows was left out.
    """

    value: float
    losses: list[float]
    stopped: bool = False


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
        allocation: Allocation,
        limits: Limits | None = None,
        passage_bytes: int = KEPT_BYTES,
    ) -> None:
        self.model, self.pool, self.texts, self.allocation = model, pool, dict(texts), allocation
        self.limits = limits or Limits(activations=KEPT_BYTES)
        length = next(iter(self.texts.values())).shape[1]
        self.text_walk = LayerWalk(model, length)
        self.pool_walk = self.text_walk if pool.shape[1] == length else LayerWalk(model, pool.shape[1])
        self.architecture = self.text_walk.architecture
        self.layers = check_layers(layers, len(self.text_walk.layers))
        self.sample_tokens = self.text_tokens = 0
        self._statistics: dict[tuple[int, ...], Statistics] = {}
        # A processor gains nothing from passages together, and one by one a resumed search gets the same numbers.
        together = 1 if self.text_walk.device.type == "cpu" else len(pool)
        self._passages = PassageStatistics(together, passage_bytes)
        self._pool_below: dict[int, Tensor] = {}
        self._windows = torch.cat(list(self.texts.values()))
        sizes = [len(windows) for windows in self.texts.values()]
        self._text_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        first = first_slice(sizes)
        rest = sorted(set(range(len(self._windows))) - set(first))
        with frozen(model), torch.no_grad():
            self._first, self._rest = self._batches(first), self._batches(rest)

    def statistics(self, samples: Sequence[int], needs: Iterable[Statistic]) -> Statistics:
        """Statistics of these pool passages; what an earlier call collected for the same passages is not redone."""
        key = tuple(samples)
        known = self._statistics.get(key, {})
        have = set(next(iter(next(iter(known.values())).values()))) if known else set()
        missing = set(needs) - have
        if missing:
            if missing <= ADDITIVE:
                fresh = self._passages.mean(key, missing, lambda passages: self._collect(passages, ADDITIVE, True))
            else:
                fresh = self._collect(key, missing)
            for index, members in fresh.items():
                for module, found in members.items():
                    known.setdefault(index, {}).setdefault(module, {}).update(found)
            self._statistics[key] = known
            while len(self._statistics) > STATISTICS_KEPT:
                self._statistics.pop(next(iter(self._statistics)))
        return known

    def plan(self, rule: Rule, samples: Sequence[int], method: str, settings: dict[str, Any], seed: int = 0) -> Plan:
        """The plan of a scoring rule on these samples."""
        statistics = self.statistics(samples, rule.needs)
        scores = structure_scores(self.model, self.architecture, statistics, rule.score, seed)
        return make_plan(self.model, self.architecture, scores, self.allocation, method, settings)

    def perplexities(self, plan: Plan | None) -> dict[str, float]:
        """Perplexity of the model under `plan` (None: the dense model) on every search text."""
        batches = self._first + self._rest
        return dict(zip(self.texts, self._perplexities(self._losses(plan, batches), batches), strict=True))

    def value(self, plan: Plan | None) -> float:
        """The objective: the mean of the perplexities (AdaPruner Eq. 6)."""
        return self.measure(plan).value

    def measure(self, plan: Plan | None, against: Sequence[float] | None = None) -> Measured:
        """The objective of `plan`; stopped behind the first slice if that says that it is hopeless.

        Args:
            against: `losses` of the best plan so far. None: measure all windows, whatever the first ones say.
        """
        batches, stopped = self._first, False
        if against is None:  # a layer is sliced once for all windows
            batches = self._first + self._rest
        losses = self._losses(plan, batches)
        if against is not None and self._rest:
            stopped = hopeless(losses, torch.tensor(against, dtype=losses.dtype), self._texts_of(batches))
            if not stopped:
                batches = batches + self._rest
                losses = torch.cat([losses, self._losses(plan, self._rest)])
        perplexities = self._perplexities(losses, batches)
        compared = sum(len(batch.windows) for batch in self._first)
        return Measured(sum(perplexities) / len(perplexities), losses[:compared].tolist(), stopped)

    def describe(
        self, passages: Sequence[int], losses: bool, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[Tensor, Tensor | None]:
        """What the dense model says of pool passages: their states, and their losses if asked for.

        Returns:
            states: [passages, width] float32, the mean hidden state in front of the first pruned layer. The first token
                is left out: its state is much larger than all others, and nearly the same in every passage.
            losses: [passages] float32, mean next-token loss; it takes the whole of a forward pass.
        """
        states, found, done = [], [], 0
        with frozen(self.model), torch.no_grad():
            for part in torch.tensor(passages).split(max(1, BATCH_TOKENS // self.pool.shape[1])):
                ids = self.pool[part]
                hidden = self._run_below(self.pool_walk, ids)
                states.append(hidden[:, 1:].float().mean(1).cpu())
                if losses:
                    for index in range(self.layers[0], len(self.pool_walk.layers)):
                        hidden = self.pool_walk.run(index, hidden)
                    found.append(self.pool_walk.losses(hidden, ids).float().mean(1).cpu())
                    self.text_tokens += ids.numel()
                done += len(part)
                progress(done, len(passages))
        return torch.cat(states), torch.cat(found) if losses else None

    def _losses(self, plan: Plan | None, batches: Sequence[_Batch]) -> Tensor:
        """Mean loss of every window of `batches` under `plan`, float64 [windows] on the CPU."""
        self.text_tokens += sum(batch.below.shape[0] * batch.below.shape[1] for batch in batches)
        with frozen(self.model), torch.no_grad():
            hidden = [batch.below for batch in batches]
            for index in range(self.layers[0], len(self.text_walk.layers)):
                layer = self.text_walk.layers[index]
                if plan is not None and index in plan.layers:
                    layer = sliced_layer(
                        layer, self.architecture, plan.kept("heads", index), plan.kept("channels", index)
                    )
                hidden = [self.text_walk.run(index, part, layer) for part in hidden]
            losses = [
                self.text_walk.losses(part, self._windows[batch.windows])
                for part, batch in zip(hidden, batches, strict=True)
            ]
        return torch.cat(losses).double().mean(1).cpu()

    def _perplexities(self, losses: Tensor, batches: Sequence[_Batch]) -> list[float]:
        texts = self._texts_of(batches)
        return [float(losses[texts == text].mean().exp()) for text in range(len(self.texts))]

    def _texts_of(self, batches: Sequence[_Batch]) -> Tensor:
        return torch.cat([self._text_of[batch.windows] for batch in batches])

    def _batches(self, windows: Sequence[int]) -> list[_Batch]:
        parts = torch.tensor(windows, dtype=torch.long).split(max(1, BATCH_TOKENS // self._windows.shape[1]))
        return [_Batch(part, self._run_below(self.text_walk, self._windows[part])) for part in parts if len(part)]

    def _collect(self, samples: Sequence[int], wanted: Iterable[Statistic], per_sample: bool = False) -> Statistics:
        ids, below = self.pool[list(samples)], self._below_pool(samples)
        self.sample_tokens += ids.numel()
        return collect(
            self.model, ids, self.layers, wanted, self.limits, walk=self.pool_walk, below=below, per_sample=per_sample
        )

    def _run_below(self, walk: LayerWalk, ids: Tensor) -> Tensor:
        hidden = walk.embed(ids)
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
