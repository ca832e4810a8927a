"""How searches went, trial by trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reproducer.reporting.figures.axes import (
    BLUE,
    FAR,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    labels_at_right,
    legend,
    line_style,
    new_figure,
    set_scale,
    short,
)
from reproducer.reporting.numbers import perplexity
from reproducer.reporting.searches import Histories, best_so_far
from reproducer.stages.results import Search

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def search_history(search: Search) -> Figure:
    """Objective by trial, counted from 1, a labelled line a baseline, a rug of trials without a value.

    The best so far is of the search's own trials: those that are set to a baseline are no merit of it.
    """
    figure, (ax,) = new_figure()
    values = [trial.value for trial in search.trials if trial.value is not None]
    baselines = [(b.value, f"{short(b.label)} {perplexity(b.value)}") for b in search.baselines if b.value is not None]
    set_scale(ax, values + [value for value, _ in baselines if value <= FAR * max(values)])
    for label, of_baselines, color, marker in (
        ("trial", False, SKY, "o"),
        ("trial set to a baseline", True, ORANGE, "D"),
    ):
        shown = {
            t.number + 1: t.value for t in search.trials if t.value is not None and bool(t.baseline) == of_baselines
        }
        if shown:
            ax.scatter(list(shown), list(shown.values()), s=34 if of_baselines else 18, color=color, marker=marker,
                       label=label, zorder=3 + of_baselines)  # fmt: skip
    curve = best_so_far(search)
    start = sum(value == float("inf") for value in curve)
    if start < len(curve):
        ax.step(range(start + 1, len(curve) + 1), curve[start:], where="post", color=BLUE, lw=2, zorder=5,
                label="best of its own so far")  # fmt: skip
    for value, _ in baselines:
        if value <= ax.get_ylim()[1]:  # else its label alone, with an arrow, at the top
            ax.axhline(value, color=GREY, lw=0.9, ls="--", zorder=1)
    lost = [trial for trial in search.trials if trial.value is None]
    for place, (state, label, marker, color) in enumerate(
        (
            ("stopped", "stopped early", "|", GREY),
            ("void", "no finite value", "+", PURPLE),
            ("failed", "failed", "x", RED),
        )
    ):
        numbers = [trial.number + 1 for trial in lost if trial.state == state]
        if numbers:  # a rug along the bottom of the axes
            ax.scatter(numbers, [0.02 + 0.035 * place] * len(numbers), transform=ax.get_xaxis_transform(), s=24,
                       marker=marker, color=color, zorder=4, label=label)  # fmt: skip
    _trials(ax, "trial", "objective (lower is better)")
    labels_at_right(ax, baselines)
    legend(figure, ax)
    return figure


def _trials(ax: Axes, across: str, up: str) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel(across, fontsize=10)
    ax.set_ylabel(up, fontsize=10)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def convergence(group: Histories) -> Figure:
    """Best so far by trial: for each label the mean over its seeds, and a band from the least to the greatest."""
    figure, (ax,) = new_figure()
    shown: list[float] = []
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
        ax.step(counts, mean, where="post", lw=2, label=text, zorder=3, **style)
        if len(curves) > 1:
            ax.fill_between(counts, low, high, step="post", color=style["color"], alpha=0.2, lw=0, zorder=2)
        settled = len(at) // 10  # what lies above the curves from here on may be cut off
        shown += low[settled:] + high[settled:]
    set_scale(ax, shown)
    _trials(ax, "trials made", "best objective so far")
    legend(figure, ax)
    return figure
