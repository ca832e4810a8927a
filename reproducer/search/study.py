"""A search as an Optuna study that can be interrupted anywhere (Kong et al. 2025, Eqs. 6 to 11).

It searches calibration samples and a method's own parameters. Baselines are scored on the same objective: those that
lie in the space are the study's first trials, the others are measured apart from it. Where candidates race, these do
too, and are given up when they are worse than the former beyond doubt (`BEYOND_DOUBT`). The search returns the best of
all that was measured to the end, so no such baseline is better on its own objective. An ablation (a space with a part
taken away) and the paper's search return the best of their own trials.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import optuna

from reproducer.files import write_json
from reproducer.methods.registry import METHODS, Method
from reproducer.methods.space import Space
from reproducer.pruning.statistics import Statistic
from reproducer.search.journal import best_of, fail_unfinished, finished, open_study
from reproducer.search.objective import Objective
from reproducer.search.outcome import Scores, baseline_plan_name, conclude
from reproducer.search.pace import Pace
from reproducer.search.record import Baseline, Record
from reproducer.search.samples import Progress, SampleSpace, sample_space
from reproducer.search.settings import SearchSettings
from reproducer.search.space import JointSpace, default_parameters, needs, varies
from reproducer.search.trials import (
    Build,
    Engine,
    Phase,
    Worker,
    best_losses,
    work_together,
)

JOINT, SAMPLES, PARAMETERS = "joint", "samples", "parameters"  # names of studies
BASELINES = "baselines.json"  # scores of the baselines outside of the space
FORWARD_BACKWARD = 4.0  # times the work of a pass forward that one of a passage with its statistics takes
BEYOND_DOUBT = 0.001  # chance that a round of the race gives up a baseline as good as the best one


def search(
    objective: Objective,
    method: Method,
    space: Space,
    settings: SearchSettings,
    draw: Sequence[int],
    directory: Path,
    *,
    seed: int = 0,
    text: Callable[[int], str] = lambda index: "",
    progress: Progress = lambda done, total, text: None,
    engine: Engine | None = None,
    build: Build | None = None,
) -> Record:
    """Search, or go on with the search that `directory` holds.

    Leaves `search.json`, the record; `plan.safetensors`, the best plan as it was evaluated; and what it goes on from:
    `study.journal` (Optuna's own), `baselines.json`, `plan-*.safetensors`, and `scores.json` with `data: score`.

    Args:
        method: what is searched, and `space` its parameters' ranges, a section of the class `method.space`.
        draw: the baselines' samples, as pool indices; the search chooses as many.
        seed: of the search and of methods that draw.
        text: the passage that a pool index begins, for the record.
        engine: runs the workers beyond the first; needed, with `build`, if `settings.workers` is more than 1. If this
            call raises, they go on until the engine is closed.
        build: makes another worker's objective, equal to this one; it is pickled.

    Raises:
        UserError: the study is damaged, a baseline trains before it cuts, or nothing finite was measured.
    """
    if settings.workers > 1 and (engine is None or build is None):
        raise ValueError("a search by several workers needs `engine` and `build`")
    run = _Search(objective, method, space, settings, tuple(draw), directory, seed, progress)
    joint, phases = run.prepare()
    scores = run.work(joint, phases, engine, build)
    return conclude(run.studies, joint, settings, run.baselines, scores, draw, directory, text)


@dataclass
class _Search:
    """The steps of `search`, whose arguments its fields are."""

    objective: Objective
    method: Method
    space: Space
    settings: SearchSettings
    draw: tuple[int, ...]
    directory: Path
    seed: int
    progress: Progress

    @cached_property
    def sequential(self) -> bool:
        """Whether samples and parameters are searched one after the other, each in a study."""
        chosen = self.settings.data in ("search", "ten-spaces") and self.method.calibrated
        return self.settings.order == "sequential" and chosen and varies(self.space)

    @cached_property
    def studies(self) -> list[optuna.Study]:
        names = (SAMPLES, PARAMETERS) if self.sequential else (JOINT,)
        return [open_study(self.directory, name) for name in names]

    @cached_property
    def baselines(self) -> dict[str, Method]:
        methods = map(METHODS.get, self.settings.baselines)
        return {method.name: method for method in methods}

    @cached_property
    def baseline_needs(self) -> set[Statistic]:
        calibrated = (method for method in self.baselines.values() if method.calibrated)
        return {statistic for method in calibrated for statistic in method.make().needs}

    @cached_property
    def pace(self) -> Pace:
        """Time left, over passages, trials and baselines; what has not been timed yet is taken by its tokens."""
        length = self.objective.pool.shape[1]
        passages = min(self.settings.offered or 0, len(self.objective.pool))
        text = sum(windows.numel() for windows in self.objective.texts.values())
        sampled = FORWARD_BACKWARD * length * len(self.draw)
        counts = {"passages": passages, "baselines": len(self.baselines), "trials": self.settings.trials}
        work = {"passages": FORWARD_BACKWARD * length, "baselines": text + sampled, "trials": text}
        return Pace(self.progress, counts, work)

    @cached_property
    def trial_needs(self) -> set[Statistic]:
        return needs(self.method, self.space)

    def prepare(self) -> tuple[JointSpace, list[Phase]]:
        """What is searched, with everything collected that several trials need."""
        for study in self.studies:
            fail_unfinished(study)
        self.objective.expect(self.baseline_needs | self.trial_needs)
        study, zero = self.studies[0], dict.fromkeys(self.objective.spent(), 0.0)
        samples = SampleSpace()
        with _counted(study, self.objective, zero):  # with what it took to build the objective
            if self.method.calibrated:
                samples = sample_space(
                    self.settings, self.draw, self.objective.pool, self._score_alone, self.directory, self.progress
                )
        if samples.parts and self.settings.offered:
            again = bool(study.user_attrs.get("prepared"))
            with nullcontext() if again else _counted(study, self.objective):
                self.objective.prepare(
                    samples.passages, lambda done, total: self.pace.tell("passages", done, "statistics of passages")
                )
            study.set_user_attr("prepared", True)
        self.pace.finish("passages")
        joint = JointSpace(self.method, self.space, samples, self.draw if self.method.calibrated else ())
        phases = self._phases(joint)
        with _counted(study, self.objective):
            self._collect(samples, phases[0])
        return joint, phases

    def _score_alone(self, passage: int) -> float:
        plan = self.objective.plan(self.method, default_parameters(self.space), (passage,), self.seed)
        return self.objective.value(plan)

    def _phases(self, joint: JointSpace) -> list[Phase]:
        """A single study; or one for the samples, with fixed parameters, and one for the parameters."""
        trials = self.settings.trials
        points = {name: point for name in self.baselines if (point := joint.embed(name)) is not None}
        phase = partial(Phase, joint, self.settings, self.seed, self.directory)
        if not self.sequential:
            return [phase(JOINT, max(trials, len(points)), points=tuple(points.items()))]
        default = self.space.default()
        inside = tuple((name, point) for name, point in points.items() if default.items() <= point.items())
        half = max(trials // 2, len(inside), 1)
        return [
            phase(SAMPLES, half, fixed=default, points=inside),
            phase(PARAMETERS, max(trials - half, 0), first=half),
        ]

    def _collect(self, samples: SampleSpace, phase: Phase) -> None:
        """Statistics of sample sets that several trials and baselines share, in one pass."""
        known, inside = self._scores(), [name for name, _ in phase.points]
        missing = any(name not in known for name in self.baselines if name not in inside)
        outstanding = missing or len(finished(self.studies[0])) < len(inside)
        if self.baseline_needs and (outstanding or not samples.parts):
            self.objective.statistics(self.draw, self.baseline_needs)
        if self.trial_needs and not samples.parts:
            self.objective.statistics(samples.fixed, self.trial_needs)

    def work(self, joint: JointSpace, phases: Sequence[Phase], engine: Engine | None, build: Build | None) -> Scores:
        """Do the trials that are left; returns the scores of the baselines outside of the space."""
        scores: Scores = {}
        trials = sum(phase.trials for phase in phases)

        def show() -> None:
            done = sum(len(finished(study)) for study in self.studies)
            best = _standing(self.studies, scores)
            self.pace.tell("trials", done, f"{done} of {trials} trials{best and ', '}{best}")

        for number, phase in enumerate(phases):
            studies = self.studies[: number + 1]
            if number:  # the parameters, with the best samples so far
                best = best_of(studies)
                if best is None:
                    break
                phase = replace(phase, fixed={name: best.params[name] for name in joint.samples.names})
            worker = Worker(self.objective, phase, studies, show)
            show()
            worker.work(until=len(phase.points))
            if not number:
                with _counted(studies[0], self.objective):
                    scores.update(self._score_baselines([name for name, _ in phase.points]))
            if engine is not None and build is not None and self.settings.workers > 1 and not worker.done:
                work_together(worker, engine, build, self.baseline_needs | self.trial_needs)
            worker.work()
        return scores

    def _score_baselines(self, inside: Sequence[str]) -> Scores:
        """Scores of the baselines that are no trials; what was measured before is not measured again."""
        scores, best = self._scores(), best_losses(best_of(self.studies))
        for number, method in enumerate(self.baselines.values()):
            self.pace.tell("baselines", number, f"baselines, {method.label}")
            if method.name in inside or method.name in scores:
                continue
            plan = self.objective.plan(method, {}, self.draw, self.seed)
            plan.save(self.directory / baseline_plan_name(method.name))
            measurement = self.objective.measure(plan, best, BEYOND_DOUBT)
            value = measurement.value if math.isfinite(measurement.value) else None
            score = {"partial": value} if measurement.stopped else {"value": value}
            scores[method.name] = Baseline(method=method.name, label=method.label, **score)
            write_json(self.directory / BASELINES, [score.model_dump() for score in scores.values()])
        self.pace.finish("baselines")
        return scores

    def _scores(self) -> Scores:
        path = self.directory / BASELINES
        scores = [Baseline.model_validate(score) for score in json.loads(path.read_text())] if path.exists() else []
        return {score.method: score for score in scores}


@contextmanager
def _counted(study: optuna.Study, objective: Objective, before: dict[str, float] | None = None) -> Iterator[None]:
    """Add the tokens that a preparation takes to the study's cost; `before`: what had been spent at its beginning."""
    before = before or objective.spent()
    try:
        yield
    finally:
        earlier = study.user_attrs.get("preparation", dict.fromkeys(before, 0))
        spent = {name: earlier[name] + tokens - before[name] for name, tokens in objective.spent().items()}
        if spent != earlier:
            study.set_user_attr("preparation", spent)


def _standing(studies: Sequence[optuna.Study], scores: Scores) -> str:
    best = best_of(studies)
    values = [*(score.value for score in scores.values()), best.value if best is not None else None]
    finite = [value for value in values if value is not None]
    return f"best so far {min(finite):.1f}" if finite else ""
