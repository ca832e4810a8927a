"""How training went, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reproducer.reporting.figures.axes import PANEL, WIDTH, legend, line_style, new_figure, short
from reproducer.reporting.numbers import cut
from reproducer.reporting.rows import blocks, lines
from reproducer.stages.results import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def losses(rows: Sequence[Row]) -> Figure:
    """Loss by step of every row that was trained: a panel a model and cut, a colour a method, smoothed where noisy."""
    panels = blocks(lines(row for row in rows if row.training), PANEL)
    figure, axes = new_figure(len(panels), width=max(WIDTH, 3.9 * len(panels)))
    labels = list(dict.fromkeys(line["label"] for panel in panels for line in panel))
    for ax, panel in zip(axes, panels, strict=True):
        for line in panel:
            style, label = line_style(labels.index(line["label"])), short(line["label"])
            for row in line["rows"]:
                steps, loss = [step.step for step in row.training], [step.loss for step in row.training]
                reach = len(loss) // 15
                if reach:
                    ax.plot(steps, loss, color=style["color"], lw=0.6, alpha=0.25)
                smooth = [np.mean(loss[max(0, i - reach) : i + reach + 1]) for i in range(len(loss))]
                width, marker = 1.5 if len(line["rows"]) == 1 else 1, "o" if len(loss) == 1 else None
                ax.plot(steps, smooth, label=label, lw=width, marker=marker, **style)
        if len(panels) > 1:
            ax.set_title(short(f"{panel[0]['model']}, {cut(panel[0])}", 40), fontsize=10, parse_math=False)
        ax.set_xlabel("step", fontsize=10)
    axes[0].set_ylabel("training loss", fontsize=10)
    legend(figure, *axes)
    return figure
