"""The figures of a report, written as PNG. Their captions are in the templates."""

from __future__ import annotations

import io
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
from reproducer.reporting.figures.curves import convergence, losses
from reproducer.reporting.figures.effects import claims
from reproducer.reporting.numbers import cut
from reproducer.reporting.searches import histories
from reproducer.reporting.verdicts import Verdict
from reproducer.stages.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI, COLOURS = 160, 64


@dataclass(frozen=True)
class Picture:
    """A figure that was drawn.

    Attributes:
        kind: `claims`, `accuracy`, `perplexity`, `cost`, `training` or `histories`.
        name: of its file, without the ending.
        of: what it shows: the verdicts, the columns, the `Point`s or the `Histories`.
        wide: it needs a page's whole width.
        png: its file.
    """

    kind: str
    name: str
    of: Any
    wide: bool
    png: Path


def draw(results: Results, directory: Path, verdicts: Sequence[Verdict] = ()) -> list[Picture]:
    """Draw what there are figures for into `directory`, each as `name`.png."""
    drawn: list[Picture] = []

    def save(figure: Figure, kind: str, name: str, of: Any) -> None:
        name = re.sub(r"[^a-z0-9]+", "-", name.lower().replace("%", "")).strip("-")[:100]
        taken = {picture.name for picture in drawn}
        name = next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
        _write(figure, directory / f"{name}.png")
        drawn.append(Picture(kind, name, of, figure.get_figwidth() > 1.3 * WIDTH, directory / f"{name}.png"))

    directory.mkdir(parents=True, exist_ok=True)
    if any(verdict.low is not None for verdict in verdicts):
        save(claims(verdicts), "claims", "claims", verdicts)
    # of a document figures compare the rows of its first part
    compared = results.of_part(results.parts[0]) if results.parts else results
    labels = {row.label for row in compared.rows}
    for kind in ("accuracy", "perplexity"):
        if (figure := averages(_only(results, labels), kind)) is not None:
            save(figure, kind, f"average-{kind}", averaged(compared, kind))
    for points in fronts(_only(results, labels | {row.label for row in control_rows(results)})):
        first = points[0].line
        save(front(points), "cost", f"cost-{first.model}-{cut(first)}", points)
    if any(row.training for row in results.rows):
        save(losses(results.rows), "training", "training-loss", None)
    for group in histories(results.searches):
        save(convergence(group), "histories", f"histories-{group.model}-{cut(group)}", group)
    return drawn


def _only(results: Results, labels: set[str]) -> Results:
    """The rows of these labels; of a document, with the columns of its first part."""
    rows = [row for row in results.rows if row.method == "dense" or row.label in labels]
    columns = results.of_part(results.parts[0]).columns if results.parts else results.columns
    return results.model_copy(update={"rows": rows, "columns": columns})


def _write(figure: Figure, path: Path) -> None:
    """In as few colours as a drawing needs, which makes a third of the size."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png")
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(path, optimize=True)
