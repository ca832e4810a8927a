"""A search as an Optuna study that can be interrupted anywhere (Kong et al. 2025, Eqs. 6 to 11).

It searches calibration samples and a method's own parameters. Baselines are scored on the same objective: those that
lie in the space are the study's first trials, the others stand beside it; where candidates race, these do too, and are
given up when they are worse than the former beyond doubt (`BEYOND_DOUBT`). What the search returns is the best of all
that was measured whole, so no such baseline is better on its own objective; only a space with a part taken away, an
ablation, and the search as the paper has it, return what they found themselves.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from reproducer.errors import UserError
from reproducer.methods.registry import METHODS, Method
from reproducer.methods.space import Space
from reproducer.search.journal import open_study
from reproducer.search.objective import Objective
from reproducer.search.record import FILE, Baseline, Best, Costs, Record, Sample, State, Trial, write
from reproducer.search.samples import FixedSamples, Progress, SampleSpace, SearchedSamples, sample_space
from reproducer.search.settings import SearchSettings
from reproducer.search.space import JointSpace, default_parameters, described, needs, varies
from reproducer.search.trials import (
    Build,
    Engine,
    Phase,
    Worker,
    best_of,
    fail_unfinished,
    finished,
    plan_name,
    to_beat,
    work_together,
)

JOINT, SAMPLES, PARAMETERS = "joint", "samples", "parameters"
BESIDE = "baselines.json"  # what baselines beside the space were found to be
TOKENS = ("sample_tokens", "text_tokens", "forward_tokens", "backward_tokens")
LEAST_TRIALS = 10  # complete ones, below which importances say nothing
SAMPLE_TOKEN = 4  # tokens of a text that cost as much as one of a sample: a backward pass and reductions beside
FEW = 3  # trials that are not enough to go by
TOP_TRIALS = 5  # that the importance of being among them is estimated from, at least
BEYOND_DOUBT = 0.001  # chance, at a stage of the race, that a baseline as good as the best one is given up

Scores = dict[str, Baseline]


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
    `study.journal` (Optuna's own), `baselines.json`, `plan-*.safetensors`, and `scores.json` where the settings ask for
    it.

    Args:
        method: what is searched, and `space` its parameters' ranges, a section of the class `method.space`.
        draw: the baselines' samples, as pool indices; the search chooses as many.
        seed: of the search and of methods that draw.
        text: the passage that a pool index begins, for the record.
        engine: runs the workers beyond the first; needed, with `build`, if `settings.workers` is more than 1. If this
            call raises, they go on until the engine is closed.
        build: makes another worker's objective, equal to this one; it is pickled.

    Raises:
        UserError: the study is damaged, a baseline trains before it cuts, or nothing finite was found.
    """
    if settings.workers > 1 and (engine is None or build is None):
        raise ValueError("a search by several workers needs `engine` and `build`")
    chosen = settings.data in ("search", "ten-spaces") and method.calibrated
    one_by_one = settings.order == "sequential" and chosen and varies(space)
    studies = [open_study(directory, name) for name in ((SAMPLES, PARAMETERS) if one_by_one else (JOINT,))]
    for study in studies:
        fail_unfinished(study)
    baselines = {one.name: one for one in map(METHODS.get, settings.baselines)}
    of_baselines = {statistic for one in baselines.values() if one.calibrated for statistic in one.make().needs}
    of_trials = needs(method, space)
    objective.expect(of_baselines | of_trials)

    def alone(index: int) -> float:
        return objective.value(objective.plan(method, default_parameters(space), (index,), seed))

    with _preparation(studies[0], objective, dict.fromkeys(objective.spent(), 0)):  # with what it took to make it
        samples: SampleSpace = FixedSamples(())
        if method.calibrated:
            samples = sample_space(settings, draw, objective.pool, alone, directory, progress)
    joint = JointSpace(method, space, samples, tuple(draw) if method.calibrated else ())
    phases = _phases(joint, list(baselines), settings, one_by_one)
    inside = [name for name, _ in phases[0].points]
    beside = [one for name, one in baselines.items() if name not in inside]
    if isinstance(samples, SearchedSamples) and settings.offered:
        shown: Callable[[int, int], None] = lambda done, total: progress(done, total, "passages")  # noqa: E731
        again = bool(studies[0].user_attrs.get("prepared"))
        with nullcontext() if again else _preparation(studies[0], objective):
            objective.prepare(samples.passages, shown)
        studies[0].set_user_attr("prepared", True)
    with _preparation(studies[0], objective):  # at once, what several trials need of the same samples
        known = _known(directory)
        outstanding = len(finished(studies[0])) < len(inside) or any(one.name not in known for one in beside)
        if of_baselines and (outstanding or isinstance(samples, FixedSamples)):
            objective.statistics(draw, of_baselines)
        if of_trials and isinstance(samples, FixedSamples):
            objective.statistics(samples.samples, of_trials)
    scores: Scores = {}

    def tell() -> None:
        progress(*_effort(studies, sum(phase.trials for phase in phases), settings.start), _standing(studies, scores))

    for place, (study, phase) in enumerate(zip(studies, phases, strict=True)):
        if place:  # behind the samples, the parameters: with the best samples so far
            best = best_of(studies[:place])
            if best is None:
                break
            phase = replace(phase, fixed={name: best.params[name] for name in samples.names})
        worker = Worker(objective, joint, settings, seed, directory, study, phase, studies[:place], tell)
        tell()
        worker.work(until=len(phase.points))
        if not place:
            with _preparation(study, objective):
                scores.update(_score(objective, beside, draw, seed, directory, to_beat(best_of([study]))))
        if engine is not None and build is not None and settings.workers > 1 and len(finished(study)) < phase.trials:
            work_together(worker, engine, build, of_baselines | of_trials)
        worker.work()
    return _conclude(studies, joint, settings, baselines, scores, draw, directory, text)


def _phases(joint: JointSpace, baselines: Sequence[str], settings: SearchSettings, one_by_one: bool) -> list[Phase]:
    """One study for all; or one for the samples, with fixed parameters, and one for the parameters."""
    points = {name: point for name in baselines if (point := joint.embed(name)) is not None}
    if not one_by_one:
        return [Phase(JOINT, max(settings.trials, len(points)), points=tuple(points.items()))]
    default = joint.own.default()
    inside = tuple((name, point) for name, point in points.items() if default.items() <= point.items())
    half = max(settings.trials // 2, len(inside), 1)
    return [
        Phase(SAMPLES, half, fixed=default, points=inside),
        Phase(PARAMETERS, max(settings.trials - half, 0), first=half),
    ]


def _score(
    objective: Objective,
    beside: Sequence[Method],
    draw: Sequence[int],
    seed: int,
    directory: Path,
    against: Sequence[float] | None,
) -> Scores:
    """The baselines beside the space on the objective; those that were measured before are not measured again.

    Args:
        against: losses of the best baseline in the space; one that is worse beyond doubt is not measured to the end.
    """
    known = _known(directory)
    for one in beside:
        if one.name not in known:
            plan = objective.plan(one, {}, draw, seed)
            plan.save(directory / _plan_beside(one.name))
            found = objective.measure(plan, against, BEYOND_DOUBT)
            value = found.value if math.isfinite(found.value) else None
            kept = {"partial": value} if found.stopped else {"value": value}
            known[one.name] = Baseline(method=one.name, label=one.label, **kept)
            write(directory / BESIDE, [score.model_dump() for score in known.values()])
    return known


def _known(directory: Path) -> Scores:
    path = directory / BESIDE
    scores = [Baseline.model_validate(one) for one in json.loads(path.read_text())] if path.exists() else []
    return {score.method: score for score in scores}


def _plan_beside(baseline: str) -> str:
    return f"plan-{quote(baseline, safe='')}.safetensors"


@contextmanager
def _preparation(study: optuna.Study, objective: Objective, earlier: dict[str, float] | None = None) -> Iterator[None]:
    """Add the tokens that something takes to the study's cost; `earlier`: what had been spent before."""
    earlier = earlier or objective.spent()
    try:
        yield
    finally:
        before = study.user_attrs.get("preparation", dict.fromkeys(earlier, 0))
        spent = {name: before[name] + tokens - earlier[name] for name, tokens in objective.spent().items()}
        if spent != before:
            study.set_user_attr("preparation", spent)


def _effort(studies: Sequence[optuna.Study], trials: int, start: int) -> tuple[float, float]:
    """What the trials have done, and what they will have done in the end, in tokens of texts.

    Trials differ: random ones, and baselines, are measured on more of the texts than most of those that follow. So what
    is still to come counts as the trials behind the `start` did, or as all, while there are few of these.
    """
    told = [trial.user_attrs for study in studies for trial in finished(study)]
    done = [SAMPLE_TOKEN * of.get("sample_tokens", 0) + of.get("text_tokens", 0) for of in told]
    if not sum(done):
        return float(len(done)), float(trials)
    later = [tokens for tokens, of in zip(done, told, strict=True) if of.get("ordinal", 0) >= start]
    return sum(done), sum(done) + max(trials - len(done), 0) * fmean(later if len(later) >= FEW else done)


def _standing(studies: Sequence[optuna.Study], scores: Scores) -> str:
    best = best_of(studies)
    found = [*(score.value for score in scores.values()), best.value if best is not None else None]
    return f"best so far {min(finite):.1f}" if (finite := [value for value in found if value is not None]) else ""


def _conclude(
    studies: Sequence[optuna.Study],
    joint: JointSpace,
    settings: SearchSettings,
    baselines: dict[str, Method],
    beside: Scores,
    draw: Sequence[int],
    directory: Path,
    text: Callable[[int], str],
) -> Record:
    """Write the record and the best plan: of all trials and baselines; of an ablation, and as the paper searches, of
    the trials alone."""
    best = best_of(studies)
    alone = settings.mode == "paper" or settings.data != "search" or joint.own.restricted()
    finite = [(score.value, name) for name, score in beside.items() if score.value is not None and not alone]
    value, winner = min(finite, default=(math.inf, None))
    if best is not None and best.value is not None and best.value <= value:
        candidate = joint.suggest(FixedTrial(best.params))
        number, value, baseline = best.user_attrs["ordinal"], best.value, best.user_attrs["baseline"]
        method, parameters, samples, plan = (
            joint.method.name,
            candidate.parameters,
            list(candidate.samples),
            plan_name(best),
        )
    elif winner is not None:
        number, baseline, method, parameters, samples, plan = None, winner, winner, {}, list(draw), _plan_beside(winner)
    else:
        raise UserError("no trial of the search gave a finite objective", "prune less, or offer the search more")
    trials = [_told(trial) for study in studies for trial in study.get_trials(deepcopy=False)]
    inside = {one.baseline: one.value for one in trials if one.baseline and one.state != "failed"}
    told = [Sample(index=index, text=text(index)) for index in samples]
    record = Record(
        space=described(joint.own),
        workers=settings.workers,
        trials=trials,
        baselines=[
            beside[name] if name in beside else Baseline(method=name, label=one.label, value=inside[name])
            for name, one in baselines.items()
        ],
        best=Best(number=number, value=value, method=method, params=parameters, samples=told, baseline=baseline),
        importances=importances(studies),
        costs=_costs(studies),
    )
    shutil.copyfile(directory / plan, directory / "plan.safetensors")
    write(directory / FILE, record.model_dump())
    return record


def _told(trial: FrozenTrial) -> Trial:
    attributes, whole = trial.user_attrs, trial.state == TrialState.COMPLETE
    other: State = "failed" if trial.state == TrialState.FAIL else "stopped" if attributes.get("stopped") else "void"
    return Trial(
        number=attributes.get("ordinal", trial.number),
        value=trial.value if whole else None,
        partial=None if whole else trial.value,
        state="complete" if whole else other,
        params=trial.params,
        baseline=attributes.get("baseline"),
        seconds=attributes.get("seconds"),
        phase=attributes.get("phase", JOINT),
        worker=attributes.get("worker", 0),
    )


def importances(studies: Sequence[optuna.Study]) -> dict[str, float]:
    """Each parameter's share in what makes a trial one of the best.

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
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # scikit-learn: over a second

    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, TOP_TRIALS / len(complete)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return get_param_importances(study, evaluator=evaluator, params=varying)


def _costs(studies: Sequence[optuna.Study]) -> Costs:
    attributes = [trial.user_attrs for study in studies for trial in finished(study)]
    preparations = [study.user_attrs.get("preparation", {}) for study in studies]
    return Costs(
        trials=len(attributes),
        stopped=sum(of.get("stopped", False) for of in attributes),
        seconds=sum(of.get("seconds", 0.0) for of in attributes),
        **{name: round(sum(of.get(name, 0) for of in [*attributes, *preparations])) for name in TOKENS},
    )
