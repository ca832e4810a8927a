"""What a search leaves behind for others to read."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from reproducer.errors import UserError
from reproducer.search.prepare import write
from reproducer.search.space import Space
from reproducer.search.trials import best_of, finished, plan_name

LEAST_TRIALS = 10  # complete ones, below which importances say nothing
TOP_TRIALS = 5  # that the importance of being among them is estimated from, at least


@dataclass(frozen=True)
class Found:
    """The best of all trials and candidates.

    Attributes:
        method, parameters: the winning metric; `adapruner` unless a baseline outside the space won.
        samples: pool indices of its calibration samples.
        value: its objective.
        trial: its ordinal among the finished trials, None for a candidate beside the study.
        baseline: the baseline's name if the winner is one.
        workers: processes that searched; with more than one, another search would not make the same trials.
    """

    method: str
    parameters: dict[str, Any]
    samples: list[int]
    value: float
    trial: int | None
    baseline: str | None
    workers: int = 1


def conclude(
    studies: Sequence[optuna.Study], candidates: Mapping[str, float], space: Space, workers: int, directory: Path
) -> Found:
    """Write what was found: `plan.safetensors`, `trials.json`, `importances.json`, `costs.json` and `best.json`.

    It is the best of all trials and candidates; of a space that is `ablated`, of the trials alone.
    """
    best = best_of(studies)
    eligible = [] if space.ablated else sorted(candidates)
    winner = min(eligible, key=lambda name: candidates[name], default=None)
    if winner is not None and (best is None or best.value is None or candidates[winner] < best.value):
        found = Found(winner, {}, list(space.fixed), candidates[winner], None, winner, workers)
        plan = f"plan-{winner}.safetensors"
    elif best is not None and best.value is not None:
        point, attributes = space.suggest(FixedTrial(best.params)), best.user_attrs
        baseline, samples = attributes["baseline"], list(point.samples)
        found = Found("adapruner", point.parameters, samples, best.value, attributes["ordinal"], baseline, workers)
        plan = plan_name(best)
    else:
        raise UserError("no trial of the search gave a finite objective", "prune less, or offer the search more")
    shutil.copyfile(directory / plan, directory / "plan.safetensors")
    write(directory / "trials.json", [_history(t) for study in studies for t in study.get_trials(deepcopy=False)])
    write(directory / "importances.json", importances(studies))
    write(directory / "costs.json", _costs(studies))
    write(directory / "best.json", vars(found))
    return found


def importances(studies: Sequence[optuna.Study]) -> dict[str, float]:
    """Each parameter's share in what makes a trial one of the best, by PED-ANOVA (Watanabe et al. 2023).

    Of complete trials; stopped ones have no objective. Empty if these are too few or fewer than two parameters vary. Of
    two studies one after the other, each counts half.
    """
    shares = [share for study in studies if (share := _importances(study))]
    return {name: value / len(shares) for share in shares for name, value in share.items()}


def _importances(study: optuna.Study) -> dict[str, float]:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = sorted({name for trial in complete for name in trial.params})
    varying = [name for name in names if len({trial.params.get(name) for trial in complete}) > 1]
    if len(complete) < LEAST_TRIALS or len(varying) < 2:
        return {}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, TOP_TRIALS / len(complete)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return get_param_importances(study, evaluator=evaluator, params=varying)


def _costs(studies: Sequence[optuna.Study]) -> dict[str, float]:
    """Trials, and what they and the preparations took; what an interruption made necessary again counts again."""
    trials = [trial for study in studies for trial in finished(study)]
    preparations = [study.user_attrs.get("preparation", {}) for study in studies]

    def total(name: str) -> float:
        return sum(values.get(name, 0) for values in [*(trial.user_attrs for trial in trials), *preparations])

    return {
        "trials": len(trials),
        "stopped": sum(trial.user_attrs.get("stopped", False) for trial in trials),
        "seconds": sum(trial.user_attrs.get("seconds", 0.0) for trial in trials),
        "sample_tokens": total("sample_tokens"),
        "text_tokens": total("text_tokens"),
    }


def _history(trial: FrozenTrial) -> dict[str, Any]:
    whole = trial.state == TrialState.COMPLETE
    return {
        "number": trial.user_attrs.get("ordinal", trial.number),
        "value": trial.value if whole else None,
        "partial": None if whole else trial.value,  # a stopped trial's objective on its first slice of the texts
        "state": trial.state.name.lower(),
        "params": trial.params,
        "baseline": trial.user_attrs.get("baseline"),
        "seconds": trial.user_attrs.get("seconds"),
        "phase": trial.user_attrs.get("phase"),
        "worker": trial.user_attrs.get("worker", 0),
    }
