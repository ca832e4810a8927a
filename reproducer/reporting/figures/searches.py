"""How searches went, trial by trial."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from reproducer.reporting.figures.axes import GREY, SKY, legend, line_style, new_figure, set_scale, short
from reproducer.reporting.searches import Histories, best_so_far, rival

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
    ax.set_xlabel("trials made", fontsize=10)
    ax.set_ylabel("best objective so far (lower is better)", fontsize=10)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, ax)
    return figure
