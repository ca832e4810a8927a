"""AdaPruner's search (Kong et al. 2025, Eqs. 6 to 11) as an Optuna study that can be interrupted anywhere.

The baselines are scored on the same objective: those that lie in the space are the study's first trials, the others
stand beside it as candidates. What the search returns is the best of all, so it is never worse than its baselines on
its own objective; only a space with a part taken away, an ablation, returns what it holds itself (`Space.ablated`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna

from reproducer.search.baselines import candidates, known_candidates, prefetch
from reproducer.search.encoding import Given
from reproducer.search.objective import Objective
from reproducer.search.prepare import Progress, prepare
from reproducer.search.record import Found, conclude
from reproducer.search.settings import SearchSettings
from reproducer.search.space import Space
from reproducer.search.trials import Phase, Worker, best_of, fail_unfinished, finished, open_study
from reproducer.search.workers import Build, work_together

__all__ = ["Found", "SearchSettings", "search"]

STUDY, DATA_STUDY = "adapruner", "adapruner-data"


def search(
    objective: Objective,
    space: Space,
    settings: SearchSettings,
    directory: Path,
    progress: Progress = lambda done, total, text: None,
    build: Build | None = None,
) -> Found:
    """Search, or go on with the search that `directory` holds.

    Writes `study.db` (Optuna's own storage), `candidates.json` (baselines beside the study), `scores.json` or
    `features.json` where the space asks for them, and what `record.conclude` says.

    Args:
        build: makes another process's objective, equal to this one; needed if `settings.workers` is more than 1.

    Raises:
        UserError: `study.db` is damaged, or nothing finite was found.
    """
    if settings.workers > 1 and build is None:
        raise ValueError("a search by several processes needs `build`")
    study = open_study(directory, STUDY)
    fail_unfinished(study)
    with _preparation(study, objective):
        space = prepare(space, settings, objective, directory, progress)
    phases = _phases(space, settings)
    studies = [study if phase.study == STUDY else open_study(directory, phase.study) for phase in phases]
    for of_phase in studies:
        fail_unfinished(of_phase)
    embedded = [name for name, _ in phases[0].points]
    beside = [name for name in settings.baselines if name not in embedded]
    outstanding = len(finished(studies[0])) < len(embedded) or not set(beside) <= set(known_candidates(directory))
    with _preparation(study, objective):
        if outstanding or isinstance(space.coded, Given):
            prefetch(objective, space, settings.baselines)
        scored = candidates(objective, space, settings, beside, directory)

    def tell() -> None:
        done = sum(len(finished(of_phase)) for of_phase in studies)
        progress(done, sum(phase.trials for phase in phases), _standing(studies, scored))

    for place, phase in enumerate(phases):
        if place:  # behind the data, the metric: with the best data so far
            best = best_of(studies[:place])
            if best is None:
                break
            phase = replace(phase, fixed={name: best.params[name] for name in space.coded.names})
        worker = Worker(objective, space, settings, directory, studies[place], phase, studies[:place], tell)
        tell()
        worker.work(until=len(phase.points))
        if build is not None and settings.workers > 1 and len(finished(studies[place])) < phase.trials:
            work_together(worker, build)
        worker.work()
    return conclude(studies, scored, space, settings.workers, directory)


def _phases(space: Space, settings: SearchSettings) -> list[Phase]:
    """One study for all; or one for the data, with a fixed metric, and one for the metric."""
    points = {name: point for name in settings.baselines if (point := space.embed(name)) is not None}
    if settings.order == "joint" or not space.coded.names or space.taylor is not None:
        return [Phase(STUDY, max(settings.trials, len(points)), points=tuple(points.items()))]
    metric = space.metric("llm-pruner-e2")
    inside = tuple((name, point) for name, point in points.items() if metric.items() <= point.items())
    half = max(settings.trials // 2, len(inside), 1)
    return [
        Phase(DATA_STUDY, half, fixed=metric, points=inside),
        Phase(STUDY, max(settings.trials - half, 0), first=half),
    ]


@contextmanager
def _preparation(study: optuna.Study, objective: Objective) -> Iterator[None]:
    """Add the tokens that something takes to the study's cost."""
    samples, texts = objective.sample_tokens, objective.text_tokens
    try:
        yield
    finally:
        before = study.user_attrs.get("preparation", {"sample_tokens": 0, "text_tokens": 0})
        spent = {
            "sample_tokens": before["sample_tokens"] + objective.sample_tokens - samples,
            "text_tokens": before["text_tokens"] + objective.text_tokens - texts,
        }
        if spent != before:
            study.set_user_attr("preparation", spent)


def _standing(studies: Sequence[optuna.Study], scored: Mapping[str, float]) -> str:
    best = best_of(studies)
    values = [*scored.values(), *([] if best is None or best.value is None else [best.value])]
    return f"best so far {min(values):.1f}" if values else ""
