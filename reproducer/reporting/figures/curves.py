"""Curves: how searches went, trial by trial, and how training went, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from reproducer.reporting.figures.axes import (
    GREY,
    PANEL,
    SKY,
    WIDTH,
    legend,
    line_style,
    new_figure,
    set_scale,
    short,
)
from reproducer.reporting.numbers import cut
from reproducer.reporting.rows import blocks, lines
from reproducer.reporting.searches import Histories, best_so_far, rival
from reproducer.stages.results import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def convergence(group: Histories) -> Figure:
    """Best so far by trial: for each label the mean over its seeds, and a band from the least to the greatest.

    The best so far is of the search's own trials: those that are set to a baseline do not count. Of a single search
    each trial is a point. The best baselines' mean over all searches is a line.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (ax,) = new_figure()
    every = [search for searches in group.by_label.values() for search in searches.values()]
    shown: list[float] = []
    if len(every) == 1:
        own = [trial for trial in every[0].trials if trial.value is not None and not trial.baseline]
        shown = [trial.value for trial in own if trial.value is not None]
        ax.scatter([trial.number + 1 for trial in own], shown, s=18, color=SKY, label="trial", zorder=3)
    for i, (label, searches) in enumerate(group.by_label.items()):
        style = line_style(i)
        curves = [best_so_far(search) for search in searches.values()]
        start = max(sum(value == float("inf") for value in curve) for curve in curves)
        at = range(start, max(start + 1, min(map(len, curves))))
        curves = [curve + curve[-1:] * (len(at) + start - len(curve)) for curve in curves]  # a short one keeps its best
        mean = [sum(curve[i] for curve in curves) / len(curves) for i in at]
        low, high = ([pick(curve[i] for curve in curves) for i in at] for pick in (min, max))
        counts = [i + 1 for i in at]
        text = f"{short(label)} ({len(curves)} seeds)" if len(curves) > 1 else short(label)
        ax.step(counts, mean, where="post", lw=2, label=text, zorder=4, **style)
        if len(curves) > 1:
            ax.fill_between(counts, low, high, step="post", color=style["color"], alpha=0.2, lw=0, zorder=2)
        settled = len(at) // 10  # what lies above the curves from here on may be cut off
        shown += low[settled:] + high[settled:]
    baselines = [best.value for search in every if (best := rival(search)) and best.value is not None]
    if baselines:
        shown.append(fmean(baselines))
        ax.axhline(fmean(baselines), color=GREY, lw=0.9, ls="--", zorder=1, label="best baseline")
    set_scale(ax, shown)
    ax.set_xlabel("trials", fontsize=10)
    ax.set_ylabel("best objective so far (lower is better)", fontsize=10)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, ax)
    return figure


def losses(rows: Sequence[Row]) -> Figure:
    """Loss by step of every row that was trained: a panel a model and cut, a colour a method, smoothed where noisy."""
    panels = blocks(lines(row for row in rows if row.training), PANEL)
    figure, axes = new_figure(len(panels), width=max(WIDTH, 3.9 * len(panels)))
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel))
    for ax, panel in zip(axes, panels, strict=True):
        for line in panel:
            style, label = line_style(labels.index(line.label)), short(line.label)
            for row in line.rows:
                steps, loss = ([getattr(step, name) for step in row.training or []] for name in ("step", "loss"))
                reach = len(loss) // 15
                if reach:
                    ax.plot(steps, loss, color=style["color"], lw=0.6, alpha=0.25)
                smooth = [np.mean(loss[max(0, i - reach) : i + reach + 1]) for i in range(len(loss))]
                width, marker = 1.5 if len(line.rows) == 1 else 1, "o" if len(loss) == 1 else None
                ax.plot(steps, smooth, label=label, lw=width, marker=marker, **style)
        if len(panels) > 1:
            ax.set_title(short(f"{panel[0].model}, {cut(panel[0])}", 40), fontsize=10, parse_math=False)
        ax.set_xlabel("step", fontsize=10)
    axes[0].set_ylabel("training loss", fontsize=10)
    legend(figure, *axes)
    return figure
