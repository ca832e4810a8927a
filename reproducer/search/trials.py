"""The work on a study, in one process or several: ask for a trial, prune and measure its candidate, tell the value."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import optuna
import torch
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from reproducer.models.memory import give_back
from reproducer.models.products import wide_products
from reproducer.pruning.statistics import Statistic
from reproducer.search.journal import DONE, best_of, fail_unfinished, finished, open_study
from reproducer.search.objective import Objective
from reproducer.search.samplers import make_sampler
from reproducer.search.settings import SearchSettings
from reproducer.search.space import JointSpace

log = logging.getLogger(__name__)

Build = Callable[[], Objective]
LOCK = "study.lock"  # held by the process that takes up a trial


class Engine(Protocol):
    """What runs calls in other processes, and ends them with this one."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]: ...


@dataclass(frozen=True)
class Phase:
    """A study and its share of the trials: all that its workers have to know. It is pickled.

    Attributes:
        space: what is searched.
        seed: of the search, in `directory`, where its journal and its plans lie.
        study: its name: `joint`, or `samples` and `parameters`.
        trials: finished trials that it is to have.
        first: ordinal of its first trial.
        fixed: parameters that are not searched, and their values.
        points: baselines and their parameters, its first trials.
    """

    space: JointSpace
    settings: SearchSettings
    seed: int
    directory: Path
    study: str
    trials: int
    first: int = 0
    fixed: Mapping[str, Any] = field(default_factory=dict)
    points: Sequence[tuple[str, dict[str, Any]]] = ()


def best_losses(best: FrozenTrial | None) -> Sequence[float] | None:
    """Losses of the best trial, which others race against; None where there is none, or where trials do not race."""
    return best.user_attrs.get("losses") if best is not None else None


def plan_name(trial: FrozenTrial | optuna.Trial) -> str:
    """The file that holds a trial's plan if the trial was the best when it finished."""
    return f"plan-{trial.user_attrs['phase']}-{trial.number}.safetensors"


@dataclass
class Worker:
    """Does trials in this process.

    Attributes:
        studies: of the phases so far; the last is this phase's. Candidates are compared with the trials of all.
        progress: called after each trial.
        number: of the process; 0 is the one that began.
    """

    objective: Objective
    phase: Phase
    studies: Sequence[optuna.Study]
    progress: Callable[[], None] = lambda: None
    number: int = 0

    @property
    def study(self) -> optuna.Study:
        return self.studies[-1]

    @property
    def done(self) -> bool:
        """Whether all trials of the phase are finished."""
        return len(finished(self.study)) >= self.phase.trials

    def work(self, until: int | None = None) -> None:
        """Do trials until the phase, or the first `until` trials of it, are done or taken by other processes."""
        while (trial := self._ask(self.phase.trials if until is None else until)) is not None:
            self._run(trial)
            give_back()
            self.progress()

    def _ask(self, until: int) -> optuna.Trial | None:
        phase, shared = self.phase, self.phase.settings.workers > 1
        # The system releases the lock if this process is killed.
        with FileLock(phase.directory / LOCK) if shared else nullcontext():
            taken = len(self.study.get_trials(deepcopy=False, states=(*DONE, TrialState.RUNNING)))
            if taken >= until:
                return None
            # Of several processes' trials it counts which one it is, not how many have finished.
            ordinal = phase.first + (len(self.study.get_trials(deepcopy=False)) if shared else taken)
            self.study.sampler = make_sampler(phase.settings, phase.seed, phase.trials, ordinal, phase.fixed)
            baseline = None
            if taken < len(phase.points):
                baseline, point = phase.points[taken]
                self.study.enqueue_trial(point)
            trial = self.study.ask()
        attributes = {"ordinal": ordinal, "phase": phase.study, "baseline": baseline, "worker": self.number}
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        return trial

    def _run(self, trial: optuna.Trial) -> None:
        began, before = time.perf_counter(), self.objective.spent()
        value = self._measure(trial)
        for name, tokens in self.objective.spent().items():
            trial.set_user_attr(name, tokens - before[name])
        trial.set_user_attr("seconds", time.perf_counter() - began)
        if value is None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, value)

    def _measure(self, trial: optuna.Trial) -> float | None:
        """The trial's objective; None if it has none or was stopped."""
        space = self.phase.space
        samples, parameters = space.suggest(trial)
        if space.own.void(parameters):
            return None
        plan = self.objective.plan(space.method, parameters, samples, self.phase.seed)
        best = best_of(self.studies)
        races = trial.user_attrs["baseline"] is None
        measurement = self.objective.measure(plan, best_losses(best) if races else None)
        if not math.isfinite(measurement.value):
            return None
        if measurement.stopped:
            trial.set_user_attr("stopped", True)
            trial.set_user_attr("estimate", measurement.estimate)
            trial.report(measurement.value, step=len(measurement.losses))
            return None
        if best is None or best.value is None or measurement.value < best.value:
            plan.save(self.phase.directory / plan_name(trial))  # before the study knows of the trial
            if self.phase.settings.stop:
                trial.set_user_attr("losses", measurement.losses)
        return measurement.value


def work_together(worker: Worker, engine: Engine, build: Build, needs: set[Statistic]) -> None:
    """Do the phase's trials in this process and in the calls that `engine` runs, one for each further worker.

    A worker that dies loses no more than its trial: that is marked as failed, and made up for here.

    Args:
        worker: this process's.
        build: makes the objective of another process; it is pickled.
        needs: for `Objective.expect` there.
    """
    count = worker.phase.settings.workers
    threads = max(1, torch.get_num_threads() // count)
    names = [study.study_name for study in worker.studies]
    futures = [
        engine.submit(_work_elsewhere, threads, number, build, needs, worker.phase, names) for number in range(1, count)
    ]
    with _threads(threads):
        worker.work()
    for future in futures:
        try:
            future.result()
        except Exception as error:
            log.warning("a worker of the search ended: %s: %s; the others go on", type(error).__name__, error)
    fail_unfinished(worker.study)
    worker.work()


def _work_elsewhere(
    threads: int, number: int, build: Build, needs: set[Statistic], phase: Phase, studies: Sequence[str]
) -> None:
    with _threads(threads):
        opened = [open_study(phase.directory, name) for name in studies]
        objective = build()
        objective.expect(needs)
        weight = next(objective.model.parameters())
        with wide_products(weight.dtype, weight.device):
            Worker(objective, phase, opened, number=number).work()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """A share of the processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
