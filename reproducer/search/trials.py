"""The work on a study, in one process or several: ask for a trial, prune and measure its candidate, tell the value."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import optuna
import torch
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from reproducer.models.memory import give_back
from reproducer.models.products import wide_products
from reproducer.search.journal import open_study
from reproducer.search.objective import Objective
from reproducer.search.samplers import make_sampler
from reproducer.search.settings import SearchSettings
from reproducer.search.space import JointSpace

if TYPE_CHECKING:
    from reproducer.pruning.statistics import Statistic

log = logging.getLogger(__name__)

Build = Callable[[], Objective]
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
LOCK = "study.lock"  # held by the process that takes up a trial


class Engine(Protocol):
    """What runs calls in other processes, and ends them with this one."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]: ...


@dataclass(frozen=True)
class Phase:
    """A study and its share of the trials.

    Attributes:
        study: its name: `joint`, or `samples` and `parameters`.
        trials: finished trials that it is to have.
        first: ordinal of its first trial.
        fixed: parameters that are not searched, and their values.
        points: baselines and their parameters, its first trials.
    """

    study: str
    trials: int
    first: int = 0
    fixed: Mapping[str, Any] = field(default_factory=dict)
    points: Sequence[tuple[str, dict[str, Any]]] = ()


def fail_unfinished(study: optuna.Study) -> None:
    """Mark the trials of processes that have died as failed. To be called while no other process works on the study."""
    for _ in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.ask()  # it was put in the queue and not taken up; Optuna ends no trial that has not begun
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count, stopped ones among them."""
    return study.get_trials(deepcopy=False, states=DONE)


def best_of(studies: Sequence[optuna.Study]) -> FrozenTrial | None:
    """The complete trial with the lowest value, the earliest of equals."""
    complete = [t for study in studies for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    return min(complete, key=lambda trial: (trial.value, trial.user_attrs["ordinal"]), default=None)


def to_beat(best: FrozenTrial | None) -> Sequence[float] | None:
    """Losses of the best trial, which others race against; None where there is none, or where trials do not race."""
    return best.user_attrs.get("losses") if best is not None else None


def plan_name(trial: FrozenTrial | optuna.Trial) -> str:
    """The file that holds a trial's plan if the trial was the best when it finished."""
    return f"plan-{trial.user_attrs['phase']}-{trial.number}.safetensors"


@dataclass
class Worker:
    """Does trials in this process.

    Attributes:
        seed: of the search.
        earlier: studies whose trials were before this one's; candidates are compared with theirs too.
        progress: told before each trial.
        number: of the process; 0 is the one that began.
    """

    objective: Objective
    space: JointSpace
    settings: SearchSettings
    seed: int
    directory: Path
    study: optuna.Study
    phase: Phase
    earlier: Sequence[optuna.Study] = ()
    progress: Callable[[], None] = lambda: None
    number: int = 0

    def work(self, until: int | None = None) -> None:
        """Do trials until the phase, or the first `until` trials of it, are done or taken by other processes."""
        while (trial := self._ask(self.phase.trials if until is None else until)) is not None:
            self._run(trial)
            give_back()
            self.progress()

    def _ask(self, until: int) -> optuna.Trial | None:
        shared = self.settings.workers > 1
        # The system lets go of it if this process is killed.
        with FileLock(self.directory / LOCK) if shared else nullcontext():
            taken = len(self.study.get_trials(deepcopy=False, states=(*DONE, TrialState.RUNNING)))
            if taken >= until:
                return None
            # Of several processes' trials it counts which one it is, not how many have finished.
            place = len(self.study.get_trials(deepcopy=False)) if shared else taken
            ordinal = self.phase.first + place
            self.study.sampler = make_sampler(self.settings, self.seed, self.phase.trials, ordinal, self.phase.fixed)
            baseline = None
            if taken < len(self.phase.points):
                baseline, point = self.phase.points[taken]
                self.study.enqueue_trial(point)
            trial = self.study.ask()
        attributes = {"ordinal": ordinal, "phase": self.phase.study, "baseline": baseline, "worker": self.number}
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        return trial

    def _run(self, trial: optuna.Trial) -> None:
        began, objective = time.perf_counter(), self.objective
        before = objective.spent()
        value = self._measure(trial)
        for name, tokens in objective.spent().items():
            trial.set_user_attr(name, tokens - before[name])
        trial.set_user_attr("seconds", time.perf_counter() - began)
        if value is None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, value)

    def _measure(self, trial: optuna.Trial) -> float | None:
        """The trial's objective; None if it has none or was stopped."""
        candidate = self.space.suggest(trial)
        if self.space.own.void(candidate.parameters):
            return None
        plan = self.objective.plan(self.space.method, candidate.parameters, candidate.samples, self.seed)
        best = best_of([*self.earlier, self.study])
        against = to_beat(best) if trial.user_attrs["baseline"] is None else None
        measured = self.objective.measure(plan, against)
        if not math.isfinite(measured.value):
            return None
        if measured.stopped:
            trial.set_user_attr("stopped", True)
            trial.set_user_attr("estimate", measured.estimate)
            trial.report(measured.value, step=len(measured.losses))
            return None
        if best is None or best.value is None or measured.value < best.value:
            plan.save(self.directory / plan_name(trial))  # it is on disk before the study knows of the trial
            if self.settings.stop:
                trial.set_user_attr("losses", measured.losses)
        return measured.value


def work_together(worker: Worker, engine: Engine, build: Build, expected: Iterable[Statistic]) -> None:
    """Do the phase's trials in this process and in the calls that `engine` runs, one for each further worker.

    A worker that dies takes no more than its trial with it: that one is marked as failed, and made up for here.

    Args:
        worker: this process's.
        build: makes the objective of another process; it is pickled.
        expected: for `Objective.expect` there.
    """
    count = worker.settings.workers
    threads = max(1, torch.get_num_threads() // count)
    names = [study.study_name for study in worker.earlier]
    shared = (build, set(expected), worker.space, worker.settings, worker.seed, worker.directory, worker.phase, names)
    futures = [engine.submit(_join, threads, number, *shared) for number in range(1, count)]
    with _threads(threads):
        worker.work()
    for future in futures:
        try:
            future.result()
        except Exception as error:
            log.warning("a worker of the search ended: %s: %s; the others go on", type(error).__name__, error)
    fail_unfinished(worker.study)
    worker.work()


def _join(
    threads: int,
    number: int,
    build: Build,
    expected: set[Statistic],
    space: JointSpace,
    settings: SearchSettings,
    seed: int,
    directory: Path,
    phase: Phase,
    earlier: list[str],
) -> None:
    with _threads(threads):
        study, before = open_study(directory, phase.study), [open_study(directory, name) for name in earlier]
        objective = build()
        objective.expect(expected)
        worker = Worker(objective, space, settings, seed, directory, study, phase, before, number=number)
        weight = next(objective.model.parameters())
        with wide_products(weight.dtype, weight.device):
            worker.work()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """A share of the processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
