"""How training went, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas

from reproducer.reporting.figures.axes import PLACE, WIDTH, legend, line_style, new_figure, short
from reproducer.reporting.numbers import cut
from reproducer.reporting.rows import blocks, lines
from reproducer.stages.results import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def losses(rows: Sequence[Row]) -> Figure:
    """Loss by step of every row that was trained: a panel a model and cut, a colour a method, smoothed where noisy."""
    panels = blocks(lines([row for row in rows if row.training]), PLACE)
    figure, axes = new_figure(len(panels), width=max(WIDTH, 3.9 * len(panels)))
    labels = list(dict.fromkeys(line["label"] for panel in panels for line in panel))
    for ax, panel in zip(axes, panels, strict=True):
        for line in panel:
            style, label = line_style(labels.index(line["label"])), short(line["label"])
            for row in line["rows"]:
                loss = pandas.Series([step.loss for step in row.training], [step.step for step in row.training])
                window = 2 * (len(loss) // 15) + 1
                if window > 1:
                    ax.plot(loss.index, loss, color=style["color"], lw=0.6, alpha=0.25)
                ax.plot(
                    loss.rolling(window, center=True, min_periods=1).mean(), **style, label=label,
                    lw=1.5 if len(line["rows"]) == 1 else 1, marker="o" if len(loss) == 1 else None,
                )  # fmt: skip
        if len(panels) > 1:
            ax.set_title(short(f"{panel[0]['model']}, {cut(panel[0])}", 40), fontsize=10, parse_math=False)
        ax.set_xlabel("step", fontsize=10)
    axes[0].set_ylabel("training loss", fontsize=10)
    legend(figure, *axes)
    return figure
