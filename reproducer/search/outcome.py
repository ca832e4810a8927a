"""What a search comes to: the best of its trials and baselines, and the record of all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from reproducer.errors import UserError
from reproducer.files import write_json
from reproducer.methods.registry import Method
from reproducer.search.journal import best_of, finished
from reproducer.search.record import FILE, Baseline, Best, Costs, Record, Sample, State, Trial
from reproducer.search.settings import SearchSettings
from reproducer.search.space import JointSpace, described
from reproducer.search.trials import plan_name

TOKENS = ("sample_tokens", "text_tokens", "forward_tokens", "backward_tokens")

Scores = dict[str, Baseline]


def baseline_plan_name(baseline: str) -> str:
    """The file of the plan of a baseline outside of the space."""
    return f"plan-{quote(baseline, safe='')}.safetensors"


def conclude(
    studies: Sequence[optuna.Study],
    joint: JointSpace,
    settings: SearchSettings,
    baselines: Mapping[str, Method],
    scores: Scores,
    draw: Sequence[int],
    directory: Path,
    text: Callable[[int], str],
) -> Record:
    """Write the record and the best plan.

    Args:
        baselines: all of them by name; `scores`: of those outside of the space.
        draw: the baselines' samples.
    """
    trials = [trial_record(trial) for study in studies for trial in study.get_trials(deepcopy=False)]
    inside = {trial.baseline: trial.value for trial in trials if trial.baseline and trial.state != "failed"}
    best, plan = _best(studies, joint, settings, scores, draw, text)
    record = Record(
        space=described(joint.own),
        workers=settings.workers,
        trials=trials,
        baselines=[
            scores[name] if name in scores else Baseline(method=name, label=method.label, value=inside[name])
            for name, method in baselines.items()
        ],
        best=best,
        costs=_costs(studies),
    )
    shutil.copyfile(directory / plan, directory / "plan.safetensors")
    write_json(directory / FILE, record.model_dump())
    return record


def _best(
    studies: Sequence[optuna.Study],
    joint: JointSpace,
    settings: SearchSettings,
    scores: Scores,
    draw: Sequence[int],
    text: Callable[[int], str],
) -> tuple[Best, str]:
    """The best and its plan's file: of all trials and baselines; in an ablation and the paper's search, of the trials.

    Raises:
        UserError: nothing has a finite objective.
    """

    def samples(indices: Sequence[int]) -> list[Sample]:
        return [Sample(index=index, text=text(index)) for index in indices]

    trials_only = settings.mode == "paper" or settings.data != "search" or joint.own.restricted()
    finite = [(score.value, name) for name, score in scores.items() if score.value is not None and not trials_only]
    trial, baseline = best_of(studies), min(finite, default=None)
    if trial is not None and trial.value is not None and (baseline is None or trial.value <= baseline[0]):
        chosen, parameters = joint.suggest(FixedTrial(trial.params))
        best = Best(
            number=trial.user_attrs["ordinal"],
            value=trial.value,
            method=joint.method.name,
            params=parameters,
            samples=samples(chosen),
            baseline=trial.user_attrs["baseline"],
        )
        return best, plan_name(trial)
    if baseline is None:
        raise UserError("no trial of the search gave a finite objective", "prune less, or offer the search more")
    value, name = baseline
    best = Best(number=None, value=value, method=name, params={}, samples=samples(draw), baseline=name)
    return best, baseline_plan_name(name)


def trial_record(trial: FrozenTrial) -> Trial:
    attributes, complete = trial.user_attrs, trial.state == TrialState.COMPLETE
    other: State = "failed" if trial.state == TrialState.FAIL else "stopped" if attributes.get("stopped") else "void"
    return Trial(
        number=attributes.get("ordinal", trial.number),
        value=trial.value if complete else None,
        partial=None if complete else trial.value,
        state="complete" if complete else other,
        params=trial.params,
        baseline=attributes.get("baseline"),
        seconds=attributes.get("seconds"),
        phase=attributes.get("phase", "joint"),
        worker=attributes.get("worker", 0),
    )


def _costs(studies: Sequence[optuna.Study]) -> Costs:
    attributes = [trial.user_attrs for study in studies for trial in finished(study)]
    preparations = [study.user_attrs.get("preparation", {}) for study in studies]
    return Costs(
        trials=len(attributes),
        stopped=sum(of.get("stopped", False) for of in attributes),
        seconds=sum(of.get("seconds", 0.0) for of in attributes),
        **{name: round(sum(of.get(name, 0) for of in [*attributes, *preparations])) for name in TOKENS},
    )
