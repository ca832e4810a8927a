"""The search objective: perplexity of a candidate's pruned model, at the cost of its arithmetic.

Hidden states in front of the first pruned layer never change between trials, so they are computed once, for the pool
and for the search texts. A candidate is evaluated layer by layer on all texts; a layer's sliced weights exist only
while the layer runs, and the model is neither copied nor reloaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reproducer.methods.registry import Rule
from reproducer.models.walk import LayerWalk, frozen
from reproducer.pruning.allocation import Allocation
from reproducer.pruning.plan import Plan
from reproducer.pruning.scoring import check_layers, make_plan, structure_scores
from reproducer.pruning.statistics import Limits, Statistic, Statistics, collect
from reproducer.pruning.surgery import sliced_layer

BATCH_TOKENS = 2048  # tokens that run through a layer at once
STATISTICS_KEPT = 64  # sample sets whose statistics stay in memory: a few MB each


class Objective:
    """Prunes and evaluates candidates on one model.

    Args:
        model: the dense base model; left untouched.
        pool: LongTensor [passages, length], the calibration pool.
        texts: search text name -> LongTensor [windows, seq_len].
        layers: indices of the layers to prune.
        allocation: how much to prune.
        limits: memory that the statistics may take.
    """

    def __init__(
        self,
        model: nn.Module,
        pool: Tensor,
        texts: Mapping[str, Tensor],
        layers: Sequence[int] | None,
        allocation: Allocation,
        limits: Limits | None = None,
    ) -> None:
        self.model, self.pool, self.texts, self.allocation = model, pool, dict(texts), allocation
        self.limits = limits or Limits(activations=2**31)
        length = next(iter(self.texts.values())).shape[1]
        self.text_walk = LayerWalk(model, length)
        self.pool_walk = self.text_walk if pool.shape[1] == length else LayerWalk(model, pool.shape[1])
        self.architecture = self.text_walk.architecture
        self.layers = check_layers(layers, len(self.text_walk.layers))
        self._statistics: dict[tuple[int, ...], Statistics] = {}
        self._pool_below: dict[int, Tensor] = {}
        with frozen(model), torch.no_grad():
            self._windows = torch.cat(list(self.texts.values()))
            self._below = self._run_below(self.text_walk, self._windows)

    def statistics(self, samples: Sequence[int], needs: Iterable[Statistic]) -> Statistics:
        """Statistics of these pool passages; what an earlier call collected for the same passages is not redone."""
        key = tuple(samples)
        known = self._statistics.get(key, {})
        have = set(next(iter(next(iter(known.values())).values()))) if known else set()
        missing = set(needs) - have
        if missing:
            ids = self.pool[list(key)]
            fresh = collect(
                self.model, ids, self.layers, missing, self.limits, walk=self.pool_walk, below=self._below_pool(key)
            )
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
        first = self.layers[0]
        with frozen(self.model), torch.no_grad():
            hidden = self._below
            for index in range(first, len(self.text_walk.layers)):
                layer = self.text_walk.layers[index]
                if plan is not None and index in plan.layers:
                    layer = sliced_layer(
                        layer, self.architecture, plan.kept("heads", index), plan.kept("channels", index)
                    )
                hidden = torch.cat([self.text_walk.run(index, part, layer) for part in self._batches(hidden)])
            losses = torch.cat(
                [
                    self.text_walk.losses(part, ids)
                    for part, ids in zip(self._batches(hidden), self._batches(self._windows), strict=True)
                ]
            )
        sizes = [len(windows) for windows in self.texts.values()]
        parts = losses.double().split(sizes)
        return {name: math.exp(float(part.mean())) for name, part in zip(self.texts, parts, strict=True)}

    def value(self, plan: Plan | None) -> float:
        """The objective: the mean of the perplexities (AdaPruner Eq. 6)."""
        perplexities = self.perplexities(plan)
        return sum(perplexities.values()) / len(perplexities)

    def _batches(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(max(1, BATCH_TOKENS // self._windows.shape[1]))

    def _run_below(self, walk: LayerWalk, ids: Tensor) -> Tensor:
        parts = []
        for part in ids.split(max(1, BATCH_TOKENS // ids.shape[1])):
            hidden = walk.embed(part)
            for index in range(self.layers[0]):
                hidden = walk.run(index, hidden)
            parts.append(hidden)
        return torch.cat(parts)

    def _below_pool(self, samples: Sequence[int]) -> Tensor:
        """Hidden states of pool passages in front of the first pruned layer, each passage computed once and alone."""
        with frozen(self.model), torch.no_grad():
            for index in samples:
                if index not in self._pool_below:
                    self._pool_below[index] = self._run_below(self.pool_walk, self.pool[index : index + 1])
        return torch.cat([self._pool_below[index] for index in samples])
