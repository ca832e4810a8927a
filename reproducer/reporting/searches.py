"""What the records of searches tell: how far each got beyond its baselines, what it cost, and how soon it got there.

Trials are counted from 1, the baselines' and the failed or stopped ones among them. What the baselines' trials reached
is no merit of a search, and left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from reproducer.paper import load_item
from reproducer.reporting.rows import estimate
from reproducer.stages.results import Baseline, Search

MANY = 12  # searches, of which more stand one by one in the appendix alone
NEAR = 0.02  # of the final best: what counts as converged
PARAMETERS_7B = 6.74e9  # LLaMA-7B's
FORWARD, FORWARD_BACKWARD = 2, 6  # floating-point operations a parameter and token, as usually estimated
SPEED = 100e12  # floating-point operations a second that a GPU is taken to sustain


def rival(search: Search) -> Baseline | None:
    """The best of the baselines with a value."""
    known = [(baseline.value, i) for i, baseline in enumerate(search.baselines) if baseline.value is not None]
    return search.baselines[min(known)[1]] if known else None


def gap(search: Search) -> float | None:
    """How far, as a share of it, the search's best is below the best baseline."""
    other = rival(search)
    return None if other is None or other.value is None else 1 - search.best.value / other.value


def searches_metric(search: Search) -> bool:
    """Whether any parameter of the method's own can vary."""
    return any(
        isinstance(value, dict) or (isinstance(value, list) and len(value) > 1) for value in search.space.values()
    )


def states(search: Search) -> dict[str, int]:
    """How many trials ended in each state, in the order of their first."""
    ended = [trial.state for trial in search.trials]
    return {state: ended.count(state) for state in dict.fromkeys(ended)}


def counted(search: Search) -> int:
    """Trials that count: a failed one, whose process was killed, was made up for by another."""
    return sum(trial.state != "failed" for trial in search.trials)


@dataclass(frozen=True)
class Candidate:
    """The search's best or a baseline.

    Attributes:
        partial: of a baseline that was given up, the objective so far.
        below: how many of the `trials` with a value are better than it.
    """

    label: str
    value: float | None
    partial: float | None
    below: int
    trials: int


def candidates(search: Search) -> list[Candidate]:
    """From the best on; those without a value last."""
    values = [trial.value for trial in search.trials if trial.value is not None]
    best = [(search.label, search.best.value, None)]
    found = [*best, *((baseline.label, baseline.value, baseline.partial) for baseline in search.baselines)]
    found.sort(key=lambda one: (one[1] is None, one[1] or one[2] or 0.0))
    return [Candidate(*one, sum(one[1] is not None and x < one[1] for x in values), len(values)) for one in found]


def importances(search: Search) -> list[tuple[list[str], float]]:
    """Parameters and their share, the largest first; numbered ones, such as the samples, together."""
    families: dict[str, list[str]] = {}
    for name in search.importances:
        families.setdefault(re.sub(r"_\d+$", "", name), []).append(name)
    summed = [
        (sorted(names, key=_number), sum(map(search.importances.__getitem__, names))) for names in families.values()
    ]
    return sorted(summed, key=lambda pair: -pair[1])


def _number(name: str) -> int:
    return int(name.rpartition("_")[2]) if re.search(r"_\d+$", name) else 0


def flop_7b(search: Search) -> float | None:
    """Floating-point operations that the trials' tokens would take on LLaMA-7B."""
    if search.costs is None:
        return None
    tokens = FORWARD_BACKWARD * search.costs.sample_tokens + FORWARD * search.costs.text_tokens
    return float(tokens * PARAMETERS_7B)


def best_so_far(search: Search) -> list[float]:
    """After 1, 2, … trials the least value so far of the search's own; infinite before the first of these.

    A trial that is set to a baseline is none of its own.
    """
    values: dict[int, float] = {}
    for trial in search.trials:
        value = trial.value if trial.value is not None and not trial.baseline else float("inf")
        values[trial.number] = min(value, values.get(trial.number, float("inf")))
    curve: list[float] = []
    for number in range(max(values, default=-1) + 1):
        curve.append(min(values.get(number, float("inf")), curve[-1] if curve else float("inf")))
    return curve


def trials_until(curve: Sequence[float], limit: float) -> int | None:
    """After how many trials the best so far is at `limit` or below; None if never."""
    return next((count for count, value in enumerate(curve, start=1) if value <= limit), None)


def trial_seconds(search: Search) -> float:
    """Of all its trials, the baselines' and the stopped ones among them; what was prepared before them is left out."""
    return sum(trial.seconds or 0.0 for trial in search.trials)


def best_within(search: Search, seconds: float) -> float | None:
    """The least value of the search's own that its trials had found after so many seconds."""
    spent, best = 0.0, float("inf")
    for trial in sorted(search.trials, key=lambda trial: trial.number):
        spent += trial.seconds or 0.0
        if spent <= seconds * (1 + 1e-9) and trial.value is not None and not trial.baseline:
            best = min(best, trial.value)
    return best if best < float("inf") else None


def settled(search: Search) -> int | None:
    """After how many trials the best so far of its own is within `NEAR` of the final one."""
    curve = best_so_far(search)
    return trials_until(curve, (1 + NEAR) * curve[-1]) if curve and curve[-1] < float("inf") else None


def alike(found: Sequence[Search]) -> list[list[Search]]:
    """Searches that differ in the seed alone, together."""
    groups: dict[Any, list[Search]] = {}
    for one in found:
        groups.setdefault((one.label, one.model, one.ratio, one.structure_ratio), []).append(one)
    return list(groups.values())


@dataclass(frozen=True)
class Histories:
    """Searches of one model, cut and objective, by label, then by seed; at least two, each with a value of its own."""

    model: str
    ratio: float | None
    structure_ratio: float | None
    by_label: dict[str, dict[int, Search]]

    @property
    def seconds(self) -> float | None:
        """What the trials of the quickest of these searches took; None where one does not tell, or had several workers,
        whose trials ran side by side."""
        every = [search for searches in self.by_label.values() for search in searches.values()]
        if any(search.workers > 1 for search in every):
            return None
        return min(trial_seconds(search) for search in every) or None

    def lines(self) -> list[dict[str, Any]]:
        """A line a label and seed and, after several seeds, their mean.

        Each has `label`, `seed` (None: the mean), `best` (of the mean also `half`, of its interval over seeds),
        `within`, the best after `seconds` (None where one had none then), `own` and `common`: the trials until within
        `NEAR` of its own final best, and of the best of all searches of its seed (None: never); of the mean, over the
        seeds that got there, which `own_seeds` and `common_seeds` count.
        """
        curves = {
            label: {seed: best_so_far(search) for seed, search in sorted(searches.items())}
            for label, searches in self.by_label.items()
        }
        least: dict[int, float] = {}
        for by_seed in curves.values():
            for seed, curve in by_seed.items():
                least[seed] = min(curve[-1], least.get(seed, float("inf")))
        found: list[dict[str, Any]] = []
        seconds = self.seconds
        for label, by_seed in curves.items():
            for seed, curve in by_seed.items():
                own, common = (trials_until(curve, (1 + NEAR) * best) for best in (curve[-1], least[seed]))
                within = None if seconds is None else best_within(self.by_label[label][seed], seconds)
                line = {"label": label, "seed": seed, "best": curve[-1], "within": within}
                found.append({**line, "own": own, "common": common})
            if len(by_seed) > 1:
                lines = found[-len(by_seed) :]
                known, after = estimate([line["best"] for line in lines]), [line["within"] for line in lines]
                assert known is not None
                mean = {
                    "label": label,
                    "seed": None,
                    "best": known.mean,
                    "half": known.half,
                    "within": None if None in after else fmean(after),
                    "seeds": len(lines),
                }
                for name in ("own", "common"):
                    counts = [line[name] for line in lines if line[name] is not None]
                    mean |= {name: fmean(counts) if counts else None, f"{name}_seeds": len(counts)}
                found.append(mean)
        return found


def histories(searches: Sequence[Search]) -> list[Histories]:
    """Searches that differ in label, seed and sampler alone, where there are several to compare."""
    found: dict[tuple, dict[str, dict[int, Search]]] = {}
    for search in searches:
        if any(trial.value is not None and not trial.baseline for trial in search.trials):
            objective = (*search.texts, search.settings.get("split"), search.settings.get("windows"))
            key = (search.model, search.ratio, search.structure_ratio, objective)
            found.setdefault(key, {}).setdefault(search.label, {})[search.seed] = search
    groups = [Histories(key[0], key[1], key[2], by_label) for key, by_label in found.items()]
    return [group for group in groups if sum(map(len, group.by_label.values())) > 1]


@dataclass(frozen=True)
class AgainstRandom:
    """A sampler against random search of the same space that is otherwise alike, on the seeds of both.

    Attributes:
        label, sampler, reference: the search, how it samples, the random search.
        seeds: compared; `reached`: those on which it got to random search's final best.
        trials, reference_trials: means over the latter of the trials until then; None where there is none.
        ratio: of the two; `paper_ratio`: that of the paper's text, if it has one for the sampler.
        paper_trials: what the paper's text says that the sampler, and random search, need.
    """

    label: str
    sampler: str
    reference: str
    seeds: list[int]
    reached: int
    trials: float | None
    reference_trials: float | None
    ratio: float | None
    paper_trials: tuple[int, int] | None


def against_random(group: Histories) -> list[AgainstRandom]:
    found = []
    random = {label: s for label, s in group.by_label.items() if _settings(s)[0] == "random"}
    for reference, at_random in random.items():
        for label, searches in group.by_label.items():
            sampler, *others = _settings(searches)
            both = sorted(searches.keys() & at_random.keys())
            same = others == _settings(at_random)[1:] and _space(searches) == _space(at_random)
            if sampler not in (None, "random") and same and both:
                pairs = [(best_so_far(searches[seed]), best_so_far(at_random[seed])) for seed in both]
                found.append(_against_random(label, str(sampler), reference, both, pairs))
    return found


def _settings(searches: Mapping[int, Search]) -> list[Any]:
    settings = next(iter(searches.values())).settings
    return [settings.get(name) for name in ("sampler", "data", "order")]


def _space(searches: Mapping[int, Search]) -> dict[str, Any]:
    return next(iter(searches.values())).space


def _against_random(
    label: str, sampler: str, reference: str, seeds: list[int], pairs: Sequence[tuple[list[float], list[float]]]
) -> AgainstRandom:
    counts = [(trials_until(curve, other[-1]), trials_until(other, other[-1])) for curve, other in pairs]
    there = [(ours, theirs) for ours, theirs in counts if ours is not None and theirs is not None]
    trials, reference_trials = (fmean(side) for side in zip(*there, strict=True)) if there else (None, None)
    ratio = trials / reference_trials if trials is not None and reference_trials else None
    printed = load_item("figure4").trials_to_converge
    paper = (printed[sampler], printed["random"]) if sampler in printed else None
    return AgainstRandom(label, sampler, reference, seeds, len(there), trials, reference_trials, ratio, paper)
