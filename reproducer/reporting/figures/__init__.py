"""The figures of a report, written as PNG, and as PDF for LaTeX. Their captions are in the templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproducer.reporting.controls import control_rows
from reproducer.reporting.cost import fronts
from reproducer.reporting.figures.axes import WIDTH
from reproducer.reporting.figures.by_method import averaged, averages
from reproducer.reporting.figures.cost import front
from reproducer.reporting.figures.effects import claims
from reproducer.reporting.figures.searches import convergence, search_history
from reproducer.reporting.figures.training import losses
from reproducer.reporting.numbers import cut
from reproducer.reporting.searches import MANY, alike, histories
from reproducer.reporting.verdicts import Verdict
from reproducer.stages.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI, COLOURS = 160, 64  # of a PNG


@dataclass(frozen=True)
class Picture:
    """A figure that was drawn.

    Attributes:
        kind: `claims`, `accuracy`, `perplexity`, `cost`, `training`, `histories` or `search`.
        name: of its files, without their endings.
        of: what it shows: the verdicts, the columns, the `Point`s, the `Histories`, or the place of the search in the
            results.
        wide: it needs a page's whole width.
        png: its file.
    """

    kind: str
    name: str
    of: Any
    wide: bool
    png: Path


def draw(results: Results, directory: Path, verdicts: Sequence[Verdict] = ()) -> list[Picture]:
    """Draw what there are figures for into `directory`, each as `name`.png and `name`.pdf."""
    drawn: list[Picture] = []

    def save(figure: Figure, kind: str, name: str, of: Any) -> None:
        name = re.sub(r"[^a-z0-9]+", "-", name.lower().replace("%", "")).strip("-")[:100]
        taken = {picture.name for picture in drawn}
        name = next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
        png = directory / f"{name}.png"
        if (layout := figure.get_layout_engine()) is not None:
            figure.set_dpi(DPI)
            layout.execute(figure)
            figure.set_layout_engine(None)  # once found, places stay: savefig would draw another time to find them
        _write_png(figure, png)
        figure.savefig(directory / f"{name}.pdf", metadata={"CreationDate": None})  # same results, same bytes
        drawn.append(Picture(kind, name, of, figure.get_figwidth() > 1.3 * WIDTH, png))

    directory.mkdir(parents=True, exist_ok=True)
    if any(one.low is not None for one in verdicts):
        save(claims(verdicts), "claims", "claims", verdicts)
    labels = _labels(results)
    compared = _only(results, labels)
    for kind in ("accuracy", "perplexity"):
        if (figure := averages(compared, kind)) is not None:
            save(figure, kind, f"average-{kind}", averaged(compared, kind))
    for points in fronts(_only(results, labels | {row.label for row in control_rows(results)})):
        first = points[0].line
        save(front(points), "cost", f"cost-{first['model']}-{cut(first)}", points)
    if any(row.training for row in results.rows):
        save(losses(results.rows), "training", "training-loss", None)
    for group in histories(results.searches):
        save(convergence(group), "histories", f"histories-{group.model}-{cut(group)}", group)
    alone = {id(group[0]) for group in alike(results.searches)}  # where there are many, one seed of each
    for i, search in enumerate(results.searches):
        if (len(results.searches) <= MANY or id(search) in alone) and any(
            trial.value is not None for trial in search.trials
        ):
            name = f"search-{search.model}-{search.label}-{cut(search)}-seed{search.seed}"
            save(search_history(search), "search", name, i)
    return drawn


def _write_png(figure: Figure, path: Path) -> None:
    """In as few colours as a drawing needs, which makes a third of the size."""
    import io

    from PIL import Image

    whole = io.BytesIO()
    figure.savefig(whole, dpi=DPI, format="png")
    Image.open(whole).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def _labels(results: Results) -> set[str]:
    """The rows that figures compare: all or, of a document, those of its first part."""
    rows = results.of_part(results.parts[0]).rows if results.parts else results.rows
    return {row.label for row in rows}


def _only(results: Results, labels: set[str]) -> Results:
    """The rows of these labels; of a document, with the columns of its first part."""
    rows = [row for row in results.rows if row.method == "dense" or row.label in labels]
    columns = results.of_part(results.parts[0]).columns if results.parts else results.columns
    return results.model_copy(update={"rows": rows, "columns": columns})
