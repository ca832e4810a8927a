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
from reproducer.reporting.figures.by_method import averaged, averages
from reproducer.reporting.figures.cost import front
from reproducer.reporting.figures.curves import convergence
from reproducer.reporting.numbers import cut
from reproducer.reporting.searches import histories
from reproducer.stages.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI, COLOURS = 160, 64


@dataclass(frozen=True)
class Picture:
    """A figure that was drawn.

    Attributes:
        kind: `accuracy`, `perplexity`, `cost` or `histories`.
        title: of the figure. png: its file.
        columns: labels of what is averaged.
    """

    kind: str
    title: str
    png: Path
    columns: Sequence[str] = ()


def draw(results: Results, directory: Path) -> list[Picture]:
    """Draw what there are figures for into `directory`; of a document the rows of its first part, and the controls."""
    drawn: list[Picture] = []

    def save(figure: Figure, kind: str, title: str, name: str, columns: Sequence[str] = ()) -> None:
        name = re.sub(r"[^a-z0-9]+", "-", name.lower().replace("%", "")).strip("-")[:100]
        taken = {picture.png.stem for picture in drawn}
        name = next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
        _write(figure, directory / f"{name}.png")
        drawn.append(Picture(kind, title, directory / f"{name}.png", columns))

    directory.mkdir(parents=True, exist_ok=True)
    compared = results.of_part(results.parts[0]) if results.parts else results
    names = {"perplexity": "Mean perplexity by method", "accuracy": "Average zero-shot accuracy by method"}
    for kind, title in names.items():
        columns = averaged(compared, kind)
        if (figure := averages(compared, columns)) is not None:
            save(figure, kind, title, f"average-{kind}", [column.label for column in columns])
    more = [row for row in control_rows(results) if row not in compared.rows] if results.parts else []
    for points in fronts(compared.model_copy(update={"rows": [*compared.rows, *more]})):
        where, name = _names(points[0].line)
        save(front(points), "cost", f"Quality against cost on {where}", f"cost-{name}")
    for group in histories(compared.searches):
        where, name = _names(group[0][0])
        save(convergence(group), "histories", f"Search histories on {where}", f"histories-{name}")
    return drawn


def _names(of: Any) -> tuple[str, str]:
    """A model and cut in a title, and in a file's name."""
    return f"{of.model} at {cut(of)}", f"{of.model}-{cut(of)}"


def _write(figure: Figure, path: Path) -> None:
    """In as few colours as a drawing needs, which makes a third of the size."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, format="png")
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(path, optimize=True)
