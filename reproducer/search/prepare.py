"""What is found out before the first trial: features of the pool's passages, or how good each passage is alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reproducer.errors import UserError
from reproducer.methods.registry import get
from reproducer.search.encoding import Encoding, Given, Indices, Ranked
from reproducer.search.objective import Objective
from reproducer.search.settings import SearchSettings
from reproducer.search.space import Space

FEATURED = 1024  # passages that features are computed of: more would cost as much as many trials
NEGLIGIBLE = 1e-6  # of the leading component's size: what is smaller is rounding
COMPONENTS = 3  # principal components of the passages' states, beside their loss

Progress = Callable[[float, float, str], None]


def prepare(space: Space, settings: SearchSettings, objective: Objective, directory: Path, progress: Progress) -> Space:
    """The space with its encoding. Keeps what it took in `features.json` or `scores.json`, so that it is done once."""
    if space.data == "score":
        return replace(space, encoding=Given(best_alone(space, settings.scored, objective, directory, progress)))
    if space.data == "random" or settings.coding == "indices":
        return replace(space, encoding=space.coded)
    return replace(space, encoding=_by_features(space, settings, objective, directory, progress))


def spread(pool: int, count: int) -> list[int]:
    """`count` of `pool` indices at even distances, all where there are not so many."""
    return [(2 * place + 1) * pool // (2 * count) for place in range(count)] if count < pool else list(range(pool))


def best_alone(space: Space, limit: int, objective: Objective, directory: Path, progress: Progress) -> tuple[int, ...]:
    """The samples with the lowest objective when LLM-Pruner-E2 prunes with one alone (Table 8, w/ score D).

    Writes `scores.json`: how many passages of the pool were scored, and the objective of each, null if not finite.
    """
    if limit < space.samples:
        raise UserError(f"{space.samples} samples cannot be the best of {limit} scored passages", "score more of them")
    path, passages = directory / "scores.json", spread(space.pool, limit)
    scores: dict[str, float | None] = json.loads(path.read_text())["scores"] if path.exists() else {}
    rule = get("llm-pruner-e2").make_rule({})
    for done, index in enumerate(passages):
        progress(done, len(passages), "passages scored alone")
        if str(index) not in scores:
            value = objective.value(objective.plan(rule, (index,), "llm-pruner-e2", {}))
            scores[str(index)] = value if math.isfinite(value) else None
            write(path, {"pool": space.pool, "scored": len(passages), "scores": scores})
    known = {index: score for index in passages if (score := scores[str(index)]) is not None}
    if len(known) < space.samples:
        raise UserError(f"only {len(known)} of {len(passages)} scored passages gave a finite objective")
    return tuple(sorted(sorted(known, key=lambda index: (known[index], index))[: space.samples]))


def _by_features(
    space: Space, settings: SearchSettings, objective: Objective, directory: Path, progress: Progress
) -> Encoding:
    """The encoding `ordered` (along the first principal component) or `features` (the loss and all components)."""
    offered = sorted({*spread(space.pool, FEATURED), *space.fixed})
    ranked = settings.coding == "features"
    path = directory / "features.json"
    if path.exists():
        rows = json.loads(path.read_text())
    else:
        shown: Callable[[int, int], None] = lambda done, total: progress(done, total, "passages described")  # noqa: E731
        states, losses = objective.describe(offered, losses=ranked, progress=shown)
        features = principal_components(states, COMPONENTS if ranked else 1)
        if losses is not None:
            features = torch.cat([losses[:, None].double(), features], dim=1)
        rows = standardised(features).tolist()
        write(path, rows)
    by_passage = dict(zip(offered, rows, strict=True))
    if ranked:
        groups: Sequence[tuple[tuple[int, ...], int]] = [(part, 1) for part in space.parts(offered)]
        if space.data == "search":
            groups = [(tuple(offered), space.samples)]
        return Ranked(tuple(groups), by_passage)
    offered.sort(key=lambda passage: (by_passage[passage][0], passage))
    return Indices(space.parts(offered), ordered=True)


def principal_components(rows: Tensor, count: int) -> Tensor:
    """The rows [n, width] along their `count` leading principal axes, float64 [n, as many of them as rows vary along].

    Of the two directions of an axis, the one along which its largest entry is positive.
    """
    centred = rows.double() - rows.double().mean(0)
    left, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))[:, 0]
    return (left * sizes * largest.sign())[:, sizes > NEGLIGIBLE * sizes[0]][:, :count]


def standardised(columns: Tensor) -> Tensor:
    """Columns of mean 0 and standard deviation 1; one that does not vary is 0."""
    centred = columns - columns.mean(0)
    deviation = centred.square().mean(0).sqrt()
    return torch.where(deviation > 0, centred / deviation, 0.0)


def write(path: Path, value: Any) -> None:
    """Write JSON so that the file is always whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False))
    temporary.replace(path)
