"""What the report says of the searches: one line each, then what each found. Text here is unescaped."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from reproducer.reporting import convergence
from reproducer.reporting.costs import costs_sentence, importances_table
from reproducer.reporting.summary import perplexity_text, ratio_text, seconds_text
from reproducer.reporting.tables import Cell, Table, best

Search = Mapping[str, Any]
MANY = 4  # more searches than so many are told in one sentence of the headline
STATES = {"complete": "done", "fail": "failed"}
SPLITS = {
    "search": "searched on texts of their own, disjoint from those that the table reports on",
    "report": "searched on the texts that the table reports on, as the paper does",
}


def headline(searches: Sequence[Search]) -> list[str]:
    """A sentence a search, or one for all of many."""
    if len(searches) <= MANY:
        return [f"{search_name(search)}: {_verdict(search)}" for search in searches]
    gaps = [gap for search in searches if (gap := _gap(search)) is not None]
    if not gaps:
        return [f"{len(searches)} searches (see “What the search found”)."]
    below, equal = sum(gap > 0 for gap in gaps), sum(gap == 0 for gap in gaps)
    return [
        f"{len(searches)} searches: what was found is below the best baseline on the search objective in {below}, "
        f"the best baseline itself in {equal}, above it in {len(gaps) - below - equal}; "
        f"by {100 * statistics.median(gaps):.1f} % at the median."
    ]


def searches_section(searches: Sequence[Search]) -> dict[str, Any] | None:
    """`summary` and `histories` over all searches, then `details` of each; None without searches."""
    if not searches:
        return None
    groups = convergence.histories(searches)
    return {
        "summary": _summary_table(searches) if len(searches) > 1 else None,
        "histories": [
            {"name": group.name, "table": convergence.convergence_table(group), "claims": convergence.claims(group)}
            for group in groups
        ],
        "details": [
            {
                "name": search_name(search),
                "place": f"search {i}",
                "sentences": _sentences(search),
                "candidates": _candidates(search),
                "parameters": _parameters(search),
                "importances": importances_table(search),
                "samples": _samples(search),
            }
            for i, search in enumerate(searches)
        ],
    }


def search_name(search: Search) -> str:
    parts = [search["label"], search["model"], ratio_text(search.get("ratio"), search.get("structure_ratio"))]
    return ", ".join([*parts, f"seed {search['seed']}"])


def _summary_table(searches: Sequence[Search]) -> Table:
    headers = ["Search", "Model", "Cut", "Seed", "Best↓", "Best baseline", "Gap", "Trials", "Stopped", "Time"]
    table = Table(headers, "lllrrlrrrr")
    for search in searches:
        value, rival, gap = (search.get("best") or {}).get("value"), _rival(search), _gap(search)
        table.add(
            search["label"],
            search["model"],
            ratio_text(search.get("ratio"), search.get("structure_ratio")),
            str(search["seed"]),
            None if value is None else perplexity_text(value),
            None if rival is None else f"{rival['label']} {perplexity_text(rival['value'])}",
            None if gap is None else _signed_percent(-gap),
            str(len(search["trials"])),
            str(sum(_state(trial) == "stopped" for trial in search["trials"])),
            seconds_text(search["seconds"]),
        )
    return table


def _signed_percent(share: float) -> str:
    return f"{100 * share:+.1f}%".replace("-", "−") if round(1000 * share) else "0.0%"


def _baselines(search: Search) -> list[Mapping[str, Any]]:
    return [candidate for candidate in search["candidates"] if candidate["label"] != search["label"]]


def _rival(search: Search) -> Mapping[str, Any] | None:
    """The best of the baselines that were evaluated."""
    known = [candidate for candidate in _baselines(search) if candidate["value"] is not None]
    return min(known, key=lambda candidate: candidate["value"], default=None)


def _gap(search: Search) -> float | None:
    """How far, as a share of it, what was found is below the best baseline."""
    found, rival = search.get("best"), _rival(search)
    if not found or found["value"] is None or rival is None:
        return None
    return 1 - found["value"] / rival["value"]


def _verdict(search: Search) -> str:
    found, rival, gap = search.get("best"), _rival(search), _gap(search)
    if not found or found["value"] is None:
        return "the search found no configuration."
    text = f"search objective {perplexity_text(found['value'])}"
    if rival is None or gap is None:
        return text + "."
    against = f"the best baseline ({rival['label']}, {perplexity_text(rival['value'])})"
    if gap == 0:
        return f"{text}, that of {against}: no trial was better."
    return f"{text}, {abs(100 * gap):.1f} % {'below' if gap > 0 else 'above'} {against}."


def _state(trial: Mapping[str, Any]) -> str:
    """`done`, `failed`, `stopped` (after a part of the texts), `void` (no objective), or Optuna's other words."""
    state = trial["state"].lower()
    if state == "pruned":
        return "void" if trial.get("partial") is None else "stopped"
    return STATES.get(state, state)


def _sentences(search: Search) -> list[str]:
    trials = search["trials"]
    states: dict[str, int] = {}
    for trial in trials:
        states[_state(trial)] = states.get(_state(trial), 0) + 1
    counted = ", ".join(f"{count} {state}" for state, count in states.items())
    split = SPLITS.get(search["split"], search["split"])
    sentences = [
        f"Objective (lower is better): {search['objective']}; {split}.",
        f"{len(trials)} trials ({counted or 'none'}) in {seconds_text(search['seconds'])}: {_verdict(search)}",
    ]
    curve = convergence.best_so_far(search, baselines=True) if trials else []
    if curve and curve[-1] < float("inf"):
        count = convergence.trials_until(curve, (1 + convergence.NEAR) * curve[-1])
        near = f"{100 * convergence.NEAR:g} %"
        sentences.append(
            f"The best so far is within {near} of the final best from the {_ordinal(count or 0)} trial on."
        )
    if states.get("stopped"):
        sentences.append("Stopped trials were hopeless on a first part of the texts; shares of trials leave them out.")
    if states.get("void"):
        sentences.append("Void trials have no objective: both weights 0, or a perplexity that is not finite.")
    if search.get("workers", 1) > 1:
        text = f"{search['workers']} processes shared the study: which trials were made depends on their timing, and "
        sentences.append(text + "another run makes others.")
    return sentences + costs_sentence(search)


def _ordinal(count: int) -> str:
    ending = "th" if count % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    return f"{count}{ending}"


def _candidates(search: Search) -> Table:
    """The search's best and every baseline on the same texts, in order, with the share of trials that beat each."""
    table = Table(["Candidate", "Objective↓", "Against the best", "Trials below it"], "lrrr")
    values = [trial["value"] for trial in search["trials"] if trial["value"] is not None]
    found = search.get("best") or {}
    lines = [(search["label"], found.get("value"))]
    lines += [(candidate["label"], candidate["value"]) for candidate in _baselines(search)]
    bold = best([None if v is None else (v, perplexity_text(v)) for _, v in lines], higher_is_better=False)
    order = sorted(range(len(lines)), key=lambda i: (lines[i][1] is None, lines[i][1] or 0.0, i))
    for i in order:
        label, value = lines[i]
        if value is None:
            table.add(label, "failed", None, None)
            continue
        below = sum(v < value for v in values)
        gap = "" if i == 0 or found.get("value") is None else _signed_percent(value / found["value"] - 1)
        share = f"{below} of {len(values)} ({100 * below / len(values):.0f}%)" if values else None
        table.add(label, Cell(perplexity_text(value), i in bold), gap, share)
    return table


def _parameters(search: Search) -> Table:
    found = search.get("best") or {}
    table = Table(["Parameter", "Value"], "ll")
    number = found.get("number")
    origin = f"the {_ordinal(number + 1)} trial" if number is not None else "a baseline, not a trial"
    if found:
        table.add("from", f"{found.get('label') or search['label']} ({origin})")
    for name, value in (found.get("params") or {}).items():
        table.add(name, f"{value:.6g}" if isinstance(value, float) else _flat(value))
    return table


def _flat(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _samples(search: Search) -> Table:
    table = Table(["Passage", "It begins"], "rp")
    for sample in (search.get("best") or {}).get("samples") or []:
        text = " ".join(sample["text"].split())
        table.add(str(sample["index"]), text if len(text) <= 110 else text[:110].rsplit(" ", 1)[0] + " …")
    return table
