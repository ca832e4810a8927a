"""Which figures a report has, written as PNG, and as PDF for LaTeX."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproducer.reporting.axes import WIDTH
from reproducer.reporting.bars import averaged, averages
from reproducer.reporting.convergence import histories
from reproducer.reporting.curves import convergence, losses, search_history
from reproducer.reporting.summary import ratio_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(results: Mapping[str, Any], directory: Path) -> list[dict[str, Any]]:
    """Draw what `results` has figures for into `directory`.

    Returns:
        For each figure `name` (a file name without its ending: `name`.png and `name`.pdf were written), `title`,
        `caption`, `wide` (it needs a page's whole width) and `place`: `results`, `training`, `searches`, or `search 3`,
        the fourth search of `results`.
    """
    drawn: list[dict[str, Any]] = []

    def save(figure: "Figure", place: str, name: str, title: str, more: str) -> None:
        taken = [other["name"] for other in drawn]
        name = next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
        wide = figure.get_figwidth() > 1.3 * WIDTH
        _save(figure, directory / name)
        drawn.append({"name": name, "title": title, "caption": title + more, "place": place, "wide": wide})

    directory.mkdir(parents=True, exist_ok=True)
    for kind, name, title in (
        ("accuracy", "average-accuracy", "Average zero-shot accuracy by method"),
        ("perplexity", "average-perplexity", "Mean perplexity by method"),
    ):
        figure = averages(results, kind)
        if figure is not None:
            keys = [metric["label"] for metric in averaged(results, kind)]
            of = "" if len(keys) == 1 else f" (mean of {', '.join(keys)})"
            save(figure, "results", name, title, f"{of}; the dashed line is the dense model.")
    if any(row.get("training") for row in results["rows"]):
        more = " after each step of fine-tuning, smoothed where there are many; pale, the losses themselves."
        save(losses(results["rows"]), "training", "training-loss", "Training loss", more)
    searches = results.get("searches") or []
    for group in histories(searches):
        ratio = ratio_text(group.ratio, group.structure_ratio)
        title = f"Search histories on {group.name}"
        more = ": the best objective so far (lower is better), baselines left out; a line is the mean over seeds, its "
        more += "band reaches from the least to the greatest."
        save(convergence(group), "searches", _slug("histories", group.model, ratio), title, more)
    for i, search in enumerate(searches):
        if not any(trial["value"] is not None for trial in search["trials"]):
            continue
        ratio = ratio_text(search.get("ratio"), search.get("structure_ratio"))
        name = _slug("search", search["model"], search["label"], ratio, f"seed{search['seed']}")
        title = f"Search history of {search['label']} on {search['model']} at {ratio}, seed {search['seed']}"
        more = ": each trial’s objective (lower is better) and the best so far, with the baselines on the same texts."
        save(search_history(search), f"search {i}", name, title, more)
    return drawn


def _slug(*parts: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower().replace("%", "")).strip("-")


def _save(figure: "Figure", path: Path) -> None:
    figure.savefig(path.with_name(f"{path.name}.png"), dpi=200)
    figure.savefig(path.with_name(f"{path.name}.pdf"), metadata={"CreationDate": None})  # same results, same bytes
