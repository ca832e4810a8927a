"""The mean of a measure by method: accuracies as bars, perplexities as points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from reproducer.reporting.comparison import item_of
from reproducer.reporting.cost import mean_of
from reproducer.reporting.figures.axes import (
    BLUE,
    FAR,
    GREEN,
    GREY,
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
from reproducer.stages.results import Column, Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def averaged(results: Results, kind: str) -> list[Column]:
    """The columns whose mean is shown: `average_acc` where the run has it, else all of the kind."""
    of_kind = [column for column in results.columns if column.kind == kind and not column.unseen]
    return [column for column in of_kind if column.key == "average_acc"] or of_kind


def averages(results: Results, kind: str) -> Figure | None:
    """A bar (a point for perplexities) a method, with its interval over seeds; a panel a model and cut, colours by
    recovery.

    None if no pruned row has the columns; a line counts only with all of them. Accuracies, in percent, have the paper's
    own averages in panels beside them, where they are known. Perplexities are on a logarithmic axis where they differ
    much, on which bars would have no base.
    """
    columns = averaged(results, kind)
    panels = _panels(with_results(lines(results.rows)), columns)
    if not panels:
        return None
    if kind == "accuracy":
        panels += _panels(_paper_lines(results), columns, " (paper)")
    pruned = [line for panel in panels for line in panel.lines]
    names = list(dict.fromkeys(line.label for line in pruned))
    tunings = sorted(dict.fromkeys(map(tuning, pruned)), key=lambda text: text != UNTUNED)
    rows = sum(max(wrapped(name).count("\n") + 1.5, 0.8 * len(tunings)) for name in names)
    figure, axes = new_figure(len(panels), width=max(WIDTH, 2.6 + 2.7 * len(panels)), height=1.3 + 0.22 * rows)
    extents = [_extent(panel, columns) for panel in panels]
    if kind == "accuracy":  # one scale for all; perplexities of other models and cuts are far apart
        extents = [[value for extent in extents for value in extent]] * len(panels)
    mean = short(columns[0].label) if len(columns) == 1 and columns[0].source else "average"
    for ax, panel, extent in zip(axes, panels, extents, strict=True):
        if kind == "perplexity":
            set_scale(ax, extent, "x")
            ax.grid(axis="y", color="#dddddd", lw=0.7)
            ax.set_axisbelow(True)
        low, high = ax.get_xlim() if kind == "perplexity" else (0.0, max(extent))
        right = high * (high / low) ** 0.18 if ax.get_xscale() == "log" else high + 0.18 * (high - low)
        ax.set_xlim(low, right)  # room for the values
        _draw(ax, panel, columns, names, tunings)
        if len(panels) > 1:
            ax.set_title(wrapped(panel.title, 30, 2), fontsize=10, parse_math=False)
        text = "mean perplexity (lower is better)" if kind == "perplexity" else f"{mean} accuracy (%)"
        ax.set_xlabel(text, fontsize=9.5, parse_math=False)
    axes[0].set_yticks(range(len(names)), [wrapped(label) for label in names], fontsize=9, parse_math=False)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    legend(figure, *axes)
    return figure


@dataclass(frozen=True)
class Panel:
    """The pruned lines of a model and cut, and the dense model's value."""

    title: str
    lines: list[Line]
    dense: float | None


def _panels(every: Sequence[Line], columns: Sequence[Column], note: str = "") -> list[Panel]:
    dense = {line.model: height.mean for line in every if line.method == "dense" and (height := _height(line, columns))}
    pruned = [line for line in measuring(every, [c.key for c in columns]) if line.method != "dense"]
    return [
        Panel(f"{panel[0].model}, {cut(panel[0])}{note}", panel, dense.get(panel[0].model))
        for panel in blocks(pruned, PANEL)
        if any(_height(line, columns) is not None for line in panel)
    ]


def _extent(panel: Panel, columns: Sequence[Column]) -> list[float]:
    """What the axis of a panel has to hold: means, ends of intervals, the dense model's value."""
    heights = [height for line in panel.lines if (height := _height(line, columns)) is not None]
    ends = [height.mean + side * height.half for height in heights if height.half for side in (-1, 1)]
    means = [height.mean for height in heights]
    known = [*means, *([] if panel.dense is None else [panel.dense])]
    if columns[0].kind == "perplexity":  # what would squeeze the others is named at the edge
        known = [value for value in known if value <= FAR * median(means)]
        ends = [end for end in ends if min(known) / FAR < end <= FAR * median(means)]
    return known + ends


def _paper_lines(results: Results) -> list[Line]:
    """The paper's rows, of the models that ours stand for, as if they were rows of ours."""
    item, paper = item_of(results), results.paper
    if item is None or paper is None:
        return []
    labels = {row.recovery: row.recovery_label for row in results.rows}
    return lines(
        Row(
            **row.model_dump(include={"model", "method", "label", "ratio", "recovery"}),
            recovery_label=labels.get(row.recovery),
            metrics={"average_acc": average / 100},
        )
        for row in item.rows
        if row.model in paper.models.values() and (average := row.metrics.get("average_acc")) is not None
    )


def _height(line: Line, columns: Sequence[Column]) -> Estimate | None:
    """The mean of the columns, accuracies in percent."""
    mean = mean_of(line, columns)
    if mean is None or columns[0].kind != "accuracy":
        return mean
    return Estimate(100 * mean.mean, None if mean.half is None else 100 * mean.half)


def _draw(ax: Axes, panel: Panel, columns: Sequence[Column], names: Sequence[str], tunings: Sequence[str]) -> None:
    """A line of text a name of `names`, from the top down; in it a height and a colour a tuning of `tunings`."""
    accuracy = columns[0].kind == "accuracy"
    width = 0.8 / len(tunings)
    for line in panel.lines:
        k, height = tunings.index(tuning(line)), _height(line, columns)
        y, color = names.index(line.label) + (k - (len(tunings) - 1) / 2) * width, (SKY, BLUE, GREEN, PURPLE)[k % 4]
        if height is None:
            failed = line.status == "failed"
            _at_edge(ax, y, "failed" if failed else "not run", RED if failed else GREY)
        elif not accuracy and height.mean > ax.get_xlim()[1]:
            _at_edge(ax, y, f"{plus_minus(height.mean, height.half)} →", "#333333")
        else:
            if accuracy:
                ax.barh(y, height.mean, 0.94 * width, color=color, label=short(tuning(line)))
            else:
                ax.scatter(height.mean, y, s=36, color=color, label=short(tuning(line)), zorder=3)
            if height.half:
                ax.errorbar(height.mean, y, xerr=height.half, color="#333333", lw=1.1, capsize=3, zorder=4)
            _value(ax, y, height, f"{height.mean:.1f}" if accuracy else plus_minus(height.mean, None))
    if panel.dense is not None:
        text = f"dense {panel.dense:.1f}" if accuracy else f"dense {plus_minus(panel.dense, None)}"
        ax.axvline(
            panel.dense, color=RED, lw=1.2, ls="--", label=text if len(ax.figure.axes) == 1 else "dense", zorder=2
        )


def _at_edge(ax: Axes, y: float, text: str, color: str) -> None:
    ax.text(0.99, y, text, fontsize=8, color=color, transform=ax.get_yaxis_transform(), va="center", ha="right")


def _value(ax: Axes, y: float, height: Estimate, text: str) -> None:
    """A value written right of its interval, or at the axes' edge where that is beyond it."""
    from matplotlib.patheffects import withStroke

    end = min(height.mean + (height.half or 0), ax.get_xlim()[1])
    ax.annotate(
        text, (end, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=7.5, zorder=6,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )  # fmt: skip
