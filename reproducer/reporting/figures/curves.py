"""How searches went, trial by trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from reproducer.reporting.figures.axes import GREY, SKY, legend, line_style, new_figure, set_scale, short
from reproducer.reporting.searches import best_so_far, rival
from reproducer.stages.results import Search

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def convergence(group: Sequence[Sequence[Search]]) -> Figure:
    """Best so far by trial: for each label the mean over its seeds, and a band from the least to the greatest.

    The best so far is of the search's own trials: those that are set to a baseline do not count. Of a single search
    each trial is a point. The best baselines' mean over all searches is a line.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (ax,) = new_figure()
    every = [search for searches in group for search in searches]
    shown: list[float] = []
    if len(every) == 1:
        own = [(trial.number + 1, trial.value) for trial in every[0].trials if trial.value and not trial.baseline]
        shown = [value for _, value in own]
        ax.scatter([number for number, _ in own], shown, s=18, color=SKY, label="trial", zorder=3)
    for i, searches in enumerate(group):
        style = line_style(i)
        curves = [best_so_far(search) for search in searches]
        start = max(sum(value == math.inf for value in curve) for curve in curves)
        at = range(start, max(start + 1, min(map(len, curves))))
        curves = [curve + curve[-1:] * (len(at) + start - len(curve)) for curve in curves]  # a short one keeps its best
        low, high, mean = ([pick(curve[i] for curve in curves) for i in at] for pick in (min, max, fmean))
        counts = [i + 1 for i in at]
        text = f"{short(searches[0].label)} ({len(curves)} seeds)" if len(curves) > 1 else short(searches[0].label)
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
