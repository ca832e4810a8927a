"""AdaPruner's search (Kong et al. 2025, Eqs. 6 to 11) as an Optuna study that can be interrupted anywhere.

The baselines are scored on the same objective: those whose metric lies in the space are the study's first trials, the
others stand beside it as candidates. What the search returns is the best of all, so it is never worse than its
baselines on its own objective.

Optuna does not store a sampler's state. So every trial has a sampler of its own, seeded from the search's seed and the
number of trials finished before: with one worker a resumed search makes the trials that an unbroken one makes.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from reproducer.errors import UserError
from reproducer.methods.registry import get
from reproducer.models.memory import give_back
from reproducer.search.objective import Objective
from reproducer.search.space import Space

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        trials: finished trials in all, the baselines' among them.
        sampler: `tpe` or `random`.
        mode: `paper` takes univariate TPE, Optuna's default of the paper's time; `default` multivariate TPE.
        seed: of the baselines' samples and of the search.
        baselines: methods to score beside the search.
    """

    trials: int
    sampler: Literal["tpe", "random"] = "tpe"
    mode: Literal["default", "paper"] = "default"
    seed: int = 0
    baselines: Sequence[str] = ()


@dataclass(frozen=True)
class Found:
    """The best of all trials and candidates.

    Attributes:
        method, parameters: the winning metric; `adapruner` unless a baseline outside the space won.
        samples: pool indices of its calibration samples.
        value: its objective.
        trial: its ordinal among the finished trials, None for a candidate beside the study.
        baseline: the baseline's name if the winner is one.
    """

    method: str
    parameters: dict[str, Any]
    samples: list[int]
    value: float
    trial: int | None
    baseline: str | None


def search(
    objective: Objective,
    space: Space,
    settings: SearchSettings,
    directory: Path,
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
) -> Found:
    """Search, or go on with the search that `directory` holds.

    Writes `study.db` (Optuna's own storage), `candidates.json` (baselines beside the study), `trials.json`,
    `best.json` and `plan.safetensors` (what was found).

    Raises:
        UserError: `study.db` is damaged.
    """
    study = _open_study(directory / "study.db")
    embedded = {name: point for name in settings.baselines if (point := space.embed(name)) is not None}
    _prefetch(objective, space, settings)
    beside = [name for name in settings.baselines if name not in embedded]
    candidates = _candidates(objective, space, settings, beside, directory)
    points = list(embedded.items())
    while (done := len(_finished(study))) < max(settings.trials, len(points)):
        progress(done, settings.trials, _standing(study, candidates))
        study.sampler = make_sampler(settings, done)
        baseline = None
        if done < len(points):
            baseline, point = points[done]
            study.enqueue_trial(point)
        trial = study.ask()
        trial.set_user_attr("ordinal", done)
        if baseline is not None:
            trial.set_user_attr("baseline", baseline)
        _run_trial(study, trial, objective, space, directory)
        give_back()
    return _conclude(study, candidates, space, directory)


def make_sampler(settings: SearchSettings, ordinal: int) -> BaseSampler:
    """The sampler of one trial: TPE or random, seeded from the search's seed and the trial's ordinal."""
    seed = (settings.seed * 1_000_003 + ordinal) % 2**32
    if settings.sampler == "random":
        return RandomSampler(seed=seed)
    if settings.mode == "paper":
        return TPESampler(seed=seed, multivariate=False)
    return TPESampler(seed=seed, multivariate=True, group=False, n_startup_trials=min(10, settings.trials // 4))


def _open_study(path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        study = optuna.create_study(study_name="adapruner", storage=storage, load_if_exists=True, direction="minimize")
        unfinished = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    except Exception as error:
        raise UserError(
            f"the search's study {path.name} cannot be read: {type(error).__name__}",
            f"move {path} away to search again from the start; it is left as it is",
        ) from error
    for trial in unfinished:  # only a process that has died leaves these: the stage is locked while it runs
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _run_trial(study: optuna.Study, trial: optuna.Trial, objective: Objective, space: Space, directory: Path) -> None:
    began = time.perf_counter()
    candidate = space.suggest(trial)
    if candidate.parameters["alpha1"] == candidate.parameters["alpha2"] == 0:
        study.tell(trial, state=TrialState.PRUNED)
        return
    rule = get("adapruner").make_rule(candidate.parameters)
    plan = objective.plan(rule, candidate.samples, "adapruner", dict(candidate.parameters))
    value = objective.value(plan)
    if not math.isfinite(value):
        trial.set_user_attr("reason", f"objective is {value}")
        study.tell(trial, state=TrialState.PRUNED)
        return
    best = min((t.value for t in _finished(study) if t.value is not None), default=math.inf)
    if value < best:  # the plan is on disk before the study knows of the trial
        plan.save(directory / f"plan-{trial.user_attrs['ordinal']}.safetensors")
    trial.set_user_attr("seconds", time.perf_counter() - began)
    study.tell(trial, value)


def _prefetch(objective: Objective, space: Space, settings: SearchSettings) -> None:
    """Collect at once what several trials need of the same samples."""
    rules = [get(name).make_rule({}) for name in settings.baselines if get(name).calibrated]
    needs = {statistic for rule in rules for statistic in rule.needs}
    if space.data == "random":
        for coarse in space.coarse_second:
            for fine in space.fine_second:
                point = {"coarse_second": coarse, "fine_second": fine}
                needs |= set(get("adapruner").make_rule(point).needs)
    if needs:
        objective.statistics(space.fixed, needs)


def _candidates(
    objective: Objective, space: Space, settings: SearchSettings, names: Sequence[str], directory: Path
) -> dict[str, float]:
    """Objectives of the baselines whose metric is no point of the space: {method: value}."""
    path = directory / "candidates.json"
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        if name not in known:
            rule = get(name).make_rule({})
            plan = objective.plan(rule, space.fixed, name, {}, settings.seed)
            plan.save(directory / f"plan-{name}.safetensors")
            known[name] = objective.value(plan)
            _write(path, known)
    _write(path, known)
    return known


def _standing(study: optuna.Study, candidates: dict[str, float]) -> str:
    values = [trial.value for trial in _finished(study) if trial.value is not None] + list(candidates.values())
    return f"best so far {min(values):.1f}" if values else ""


def _conclude(study: optuna.Study, candidates: dict[str, float], space: Space, directory: Path) -> Found:
    complete = [(trial.value, trial.number, trial) for trial in _finished(study) if trial.value is not None]
    value, _, best = min(complete, key=lambda entry: entry[:2])
    winner = min(candidates, key=lambda name: candidates[name], default=None)
    if winner is not None and candidates[winner] < value:
        found = Found(winner, {}, list(space.fixed), candidates[winner], None, winner)
        plan = f"plan-{winner}.safetensors"
    else:
        candidate = space.suggest(FixedTrial(best.params))
        found = Found(
            "adapruner",
            candidate.parameters,
            list(candidate.samples),
            value,
            best.user_attrs["ordinal"],
            best.user_attrs.get("baseline"),
        )
        plan = f"plan-{best.user_attrs['ordinal']}.safetensors"
    shutil.copyfile(directory / plan, directory / "plan.safetensors")
    _write(directory / "trials.json", [_history(trial) for trial in study.get_trials(deepcopy=False)])
    _write(directory / "best.json", vars(found))
    return found


def _history(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.user_attrs.get("ordinal", trial.number),
        "value": trial.value,
        "state": trial.state.name.lower(),
        "params": trial.params,
        "baseline": trial.user_attrs.get("baseline"),
        "seconds": trial.user_attrs.get("seconds"),
    }


def _write(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False))
    temporary.replace(path)
