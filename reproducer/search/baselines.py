"""Baselines on the search's objective: their statistics, and their objectives where they are no point of the space."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from reproducer.methods.registry import get
from reproducer.pruning.statistics import Statistic
from reproducer.search.encoding import Given
from reproducer.search.objective import Objective
from reproducer.search.prepare import write
from reproducer.search.settings import SearchSettings
from reproducer.search.space import Space


def prefetch(objective: Objective, space: Space, baselines: Sequence[str]) -> None:
    """Collect at once what several trials need of the same samples: the baselines' draw, and data that are given."""
    rules = [get(name).make_rule({}) for name in baselines if get(name).calibrated]
    needs: dict[tuple[int, ...], set[Statistic]] = {}
    needs[space.fixed] = {statistic for rule in rules for statistic in rule.needs}
    if isinstance(space.coded, Given):
        of_given = needs.setdefault(space.coded.samples, set())
        for coarse in space.coarse_second:
            for fine in space.fine_second:
                point = {"coarse_second": coarse, "fine_second": fine}
                of_given.update(get("adapruner").make_rule(point).needs)
    for samples, wanted in needs.items():
        if wanted:
            objective.statistics(samples, wanted)


def known_candidates(directory: Path) -> dict[str, float | None]:
    """Objectives of baselines beside the space that have been measured: {method: value, None if it was not finite}."""
    path = directory / "candidates.json"
    return json.loads(path.read_text()) if path.exists() else {}


def candidates(
    objective: Objective, space: Space, settings: SearchSettings, names: Sequence[str], directory: Path
) -> dict[str, float]:
    """Finite objectives of the baselines `names`.

    `candidates.json` keeps them all, and `plan-<name>.safetensors` their plans.
    """
    known = known_candidates(directory)
    for name in names:
        if name not in known:
            plan = objective.plan(get(name).make_rule({}), space.fixed, name, {}, settings.seed)
            plan.save(directory / f"plan-{name}.safetensors")
            value = objective.value(plan)
            known[name] = value if math.isfinite(value) else None
            write(directory / "candidates.json", known)
    write(directory / "candidates.json", known)
    return {name: value for name, value in known.items() if value is not None}
