"""The mean of a measure by method: a point each."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from reproducer.reporting.cost import mean_of
from reproducer.reporting.figures.axes import (
    BLUE,
    FAR,
    GREEN,
    PANEL,
    PURPLE,
    RED,
    SKY,
    WIDTH,
    legend,
    new_figure,
    set_scale,
    short,
    wrapped,
)  # fmt: skip
from reproducer.reporting.numbers import UNTUNED, cut, plus_minus, tuning
from reproducer.reporting.rows import Estimate, Line, blocks, lines, measuring, with_results
from reproducer.stages.results import Column, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def averaged(results: Results, kind: str) -> list[Column]:
    """The columns whose mean is shown: `average_acc` where the run has it, else all of the kind."""
    of_kind = [column for column in results.columns if column.kind == kind and not column.unseen]
    return [column for column in of_kind if column.key == "average_acc"] or of_kind


def averages(results: Results, columns: Sequence[Column]) -> Figure | None:
    """The mean of some columns by method, with its interval over seeds; a panel a model and cut, colours by recovery.

    None if no pruned row has the columns; a line counts only with all of them. Accuracies are in percent. What would
    squeeze the others together is named at the right edge.
    """
    every = with_results(lines(results.rows))
    pruned = [line for line in measuring(every, [column.key for column in columns]) if line.method != "dense"]
    panels = [panel for panel in blocks(pruned, PANEL) if any(_mean(line, columns) for line in panel)]
    if not panels or not columns:
        return None
    dense = {line.model: mean.mean for line in every if line.method == "dense" and (mean := _mean(line, columns))}
    pruned = [line for panel in panels for line in panel]
    names = list(dict.fromkeys(line.label for line in pruned))
    tunings = sorted(dict.fromkeys(map(tuning, pruned)), key=lambda text: text != UNTUNED)
    rows = sum(max(wrapped(name).count("\n") + 1.5, 0.8 * len(tunings)) for name in names)
    figure, axes = new_figure(len(panels), width=max(WIDTH, 2.6 + 2.7 * len(panels)), height=1.3 + 0.22 * rows)
    perplexity = columns[0].kind == "perplexity"
    for ax, panel in zip(axes, panels, strict=True):
        _draw(ax, panel, columns, names, tunings, dense.get(panel[0].model))
        if len(panels) > 1:
            ax.set_title(wrapped(f"{panel[0].model}, {cut(panel[0])}", 30, 2), fontsize=10, parse_math=False)
        text = "mean perplexity (lower is better)" if perplexity else "mean accuracy in % (higher is better)"
        ax.set_xlabel(text, fontsize=9.5)
    axes[0].set_yticks(range(len(names)), [wrapped(label) for label in names], fontsize=9, parse_math=False)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    legend(figure, *axes)
    return figure


def _mean(line: Line, columns: Sequence[Column]) -> Estimate | None:
    """The mean of the columns, accuracies in percent."""
    mean = mean_of(line, columns)
    if mean is None or columns[0].kind != "accuracy":
        return mean
    return Estimate(100 * mean.mean, None if mean.half is None else 100 * mean.half)


def _extent(means: Sequence[Estimate], dense: float | None, perplexity: bool) -> list[float]:
    """What the axis of a panel has to hold: means, ends of intervals, the dense model's value."""
    known = [*(mean.mean for mean in means), *([] if dense is None else [dense])]
    ends = [mean.mean + side * mean.half for mean in means if mean.half for side in (-1, 1)]
    if perplexity:
        limit = FAR * median(mean.mean for mean in means)
        known = [value for value in known if value <= limit]
        ends = [end for end in ends if min(known) / FAR < end <= limit]
    return known + ends


def _draw(
    ax: Axes, panel: list[Line], columns: Sequence[Column], names: list[str], tunings: list[str], dense: float | None
) -> None:
    """A line of text a name of `names`, from the top down; in it a height and a colour a tuning of `tunings`."""
    means = [_mean(line, columns) for line in panel]
    set_scale(ax, _extent([mean for mean in means if mean], dense, columns[0].kind == "perplexity"), "x")
    low, high = ax.get_xlim()
    ax.set_xlim(low, high * (high / low) ** 0.18 if ax.get_xscale() == "log" else high + 0.18 * (high - low))
    ax.grid(axis="y", color="#dddddd", lw=0.7)
    ax.set_axisbelow(True)
    width = 0.8 / len(tunings)
    for line, mean in zip(panel, means, strict=True):
        k = tunings.index(tuning(line))
        y, color = names.index(line.label) + (k - (len(tunings) - 1) / 2) * width, (SKY, BLUE, GREEN, PURPLE)[k % 4]
        if mean is None:
            continue
        if mean.mean > ax.get_xlim()[1]:
            text, where = f"{plus_minus(mean.mean, mean.half)} →", ax.get_yaxis_transform()
            ax.text(0.99, y, text, fontsize=8, color="#333333", transform=where, va="center", ha="right")
        else:
            ax.errorbar(
                mean.mean, y, xerr=mean.half or None, color=color, marker="o", ms=6, ls="", capsize=3, lw=1.1,
                label=short(tuning(line)), zorder=3,
            )  # fmt: skip
            end = min(mean.mean + (mean.half or 0), ax.get_xlim()[1])
            ax.annotate(
                plus_minus(mean.mean, None), (end, y), xytext=(6, 0), textcoords="offset points", va="center",
                fontsize=7.5,
            )  # fmt: skip
    if dense is not None:
        alone = len(ax.figure.axes) == 1
        text = f"dense {plus_minus(dense, None)}" if alone else "dense"
        ax.axvline(dense, color=RED, lw=1.2, ls="--", label=text, zorder=2)
