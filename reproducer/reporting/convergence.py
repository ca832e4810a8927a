"""Searches that are alike but for seed and label, side by side: which gets how far, and after how many trials.

Trials are counted from 1, the baselines' and the failed or stopped ones among them; but what the baselines' trials
reached is left out, for all searches begin with them: what is compared is what a sampler finds by itself.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reproducer.reporting.compare import load_item
from reproducer.reporting.summary import deviation, perplexity_text, ratio_text
from reproducer.reporting.tables import Cell, Table

NEAR = 0.02  # of the final best: what counts as converged
Search = Mapping[str, Any]
PLACE = ("model", "ratio", "structure_ratio", "objective", "split", "windows")


@dataclass(frozen=True)
class Histories:
    """Searches of one model, cut and objective: by label, then by seed."""

    model: str
    ratio: float | None
    structure_ratio: float | None
    by_label: dict[str, dict[int, Search]]

    @property
    def name(self) -> str:
        return f"{self.model} at {ratio_text(self.ratio, self.structure_ratio)}"

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for searches in self.by_label.values() for seed in searches})


def histories(searches: Sequence[Search]) -> list[Histories]:
    """The groups with more than one search to compare; a search none of whose own trials has a value is left out."""
    found: dict[tuple, dict[str, dict[int, Search]]] = {}
    for search in searches:
        if any(trial["value"] is not None and not trial.get("baseline") for trial in search["trials"]):
            key = tuple(search.get(name) for name in PLACE)
            found.setdefault(key, {}).setdefault(search["label"], {})[search["seed"]] = search
    return [
        Histories(key[0], key[1], key[2], by_label)
        for key, by_label in found.items()
        if sum(map(len, by_label.values())) > 1
    ]  # fmt: skip


def best_so_far(search: Search, baselines: bool = False) -> list[float]:
    """After 1, 2, … trials the least value so far; infinite before the first value. With `baselines`, theirs too."""
    values: dict[int, float] = {}
    for trial in search["trials"]:
        counts = trial["value"] is not None and (baselines or not trial.get("baseline"))
        value = trial["value"] if counts else float("inf")
        values[trial["number"]] = min(value, values.get(trial["number"], float("inf")))
    curve: list[float] = []
    for number in range(max(values) + 1):
        curve.append(min(values.get(number, float("inf")), curve[-1] if curve else float("inf")))
    return curve


def trials_until(curve: Sequence[float], limit: float) -> int | None:
    """After how many trials the best so far is at `limit` or below; None if never."""
    return next((count for count, value in enumerate(curve, start=1) if value <= limit), None)


def convergence_table(group: Histories) -> Table:
    """A line a label and seed, and for several seeds their mean."""
    near = f"{100 * NEAR:g} %"
    headers = ["Search", "Seed", "Final best↓", f"Trials to within {near} of it", f"… of the best of all ({near})"]
    table = Table(headers, "lrrrr")
    curves = {
        label: {seed: best_so_far(search) for seed, search in searches.items()}
        for label, searches in group.by_label.items()
    }
    least = {seed: min(c[seed][-1] for c in curves.values() if seed in c) for seed in group.seeds}
    means = {label: statistics.fmean(c[-1] for c in by_seed.values()) for label, by_seed in curves.items()}
    for label, by_seed in curves.items():
        table.rule()
        own, common = [], []
        for i, seed in enumerate(sorted(by_seed)):
            curve = by_seed[seed]
            own.append(trials_until(curve, (1 + NEAR) * curve[-1]))
            common.append(trials_until(curve, (1 + NEAR) * least[seed]))
            counts = [str(own[-1]), "never" if common[-1] is None else str(common[-1])]
            table.add("" if i else label, str(seed), perplexity_text(curve[-1]), *counts)
        if len(by_seed) > 1:
            finals = [curve[-1] for curve in by_seed.values()]
            text = f"{perplexity_text(means[label])} ± {perplexity_text(deviation(finals) or 0.0)}"
            best = Cell(text, len(means) > 1 and means[label] == min(means.values()))
            table.add("", "mean", best, _mean_text(own), _mean_text(common))
    return table


def _mean_text(counts: Sequence[int | None]) -> str:
    there = [count for count in counts if count is not None]
    if not there:
        return "never"
    text = f"{statistics.fmean(there):.1f}"
    return text if len(there) == len(counts) else f"{text} ({len(there)} of {len(counts)} seeds)"


def claims(group: Histories) -> list[str]:
    """How each label whose search is like one at random otherwise does against that; of TPE, what the paper claims."""
    sentences = []
    chance = {label: searches for label, searches in group.by_label.items() if _settings(searches)[0] == "random"}
    for reference, at_random in chance.items():
        for label, searches in group.by_label.items():
            sampler, *others = _settings(searches)
            both = sorted(searches.keys() & at_random.keys())
            if sampler in (None, "random") or others != _settings(at_random)[1:] or not both:
                continue
            sentence, verdict = _claim(label, reference, [(searches[seed], at_random[seed]) for seed in both])
            sentences.append(f"{sentence} {verdict}" if sampler == "tpe" else sentence)
    return sentences


def _settings(searches: Mapping[int, Search]) -> list[Any]:
    search = next(iter(searches.values()))
    return [search.get(name) for name in ("sampler", "data", "order")]


def _claim(label: str, reference: str, pairs: Sequence[tuple[Search, Search]]) -> tuple[str, str]:
    """Whether and when `label` reaches the final best of `reference` with the same seed; what it makes of the claim."""
    reached, needed = [], []
    for search, at_random in pairs:
        other = best_so_far(at_random)
        count = trials_until(best_so_far(search), other[-1])
        if count is not None:
            reached.append(count)
            needed.append(trials_until(other, other[-1]) or 0)
    seeds = f"{len(reached)} of {len(pairs)} seeds" if len(pairs) > 1 else f"seed {pairs[0][0]['seed']}"
    paper = load_item("figure4")["trials_to_converge"]
    claim = f"the paper’s claim (less than {paper['tpe']} trials against about {paper['random']})"
    if not reached:
        text = f"{label} does not reach the final best of {reference}."
        return text, f"{claim[0].upper()}{claim[1:]} does not hold here."
    mean, others = statistics.fmean(reached), statistics.fmean(needed)
    ratio = mean / others
    text = f"In {seeds} {label} reaches the final best of {reference}, after {mean:.1f} trials"
    text += " on average" if len(reached) > 1 else ""
    text += f"; {reference} itself needs {others:.1f}: a ratio of {ratio:.2f}, the paper’s being "
    text += f"{paper['tpe'] / paper['random']:.2f}."
    if ratio >= 1 or len(reached) <= len(pairs) / 2:
        verdict = "does not hold here"
    else:
        verdict = "holds in kind" if len(reached) == len(pairs) else "holds in part: not for every seed"
    return text, f"{claim[0].upper()}{claim[1:]} {verdict}."
