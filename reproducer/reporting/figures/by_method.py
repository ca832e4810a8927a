"""The mean of a measure by method: accuracies as bars, perplexities as points."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from reproducer.reporting.comparison import item_of
from reproducer.reporting.cost import mean_of
from reproducer.reporting.figures.axes import (
    BLUE,
    FAR,
    GREEN,
    GREY,
    PLACE,
    PURPLE,
    RED,
    SKY,
    WIDTH,
    legend,
    new_figure,
    set_scale,
    short,
    wrapped,
)
from reproducer.reporting.numbers import UNTUNED, cut, plus_minus, tuning
from reproducer.reporting.rows import Estimate, Line, blocks, lines, measuring, with_results
from reproducer.stages.results import Column, Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def averaged(results: Results, kind: str) -> list[Column]:
    """The columns whose mean is shown: `average_acc` where the run has it, else all of the kind."""
    found = [column for column in results.columns if column.kind == kind and not column.unseen]
    return [column for column in found if column.key == "average_acc"] or found


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
        printed = _panels(_paper_lines(results), columns)
        panels += [(f"{title} (paper)", members, dense) for title, members, dense in printed]
    one = short(columns[0].label) if len(columns) == 1 and columns[0].source else "average"
    name = "mean perplexity (lower is better)" if kind == "perplexity" else f"{one} accuracy (%)"
    names = list(dict.fromkeys(line["label"] for _, members, _ in panels for block in members for line in block))
    tunings = list(dict.fromkeys(tuning(block[0]) for _, members, _ in panels for block in members))
    tunings.sort(key=lambda text: text != UNTUNED)
    rows = sum(max(wrapped(name).count("\n") + 1.5, 0.8 * len(tunings)) for name in names)
    figure, axes = new_figure(len(panels), width=max(WIDTH, 2.6 + 2.7 * len(panels)), height=1.3 + 0.22 * rows)
    extents = [_extent(panel, columns) for panel in panels]
    if kind == "accuracy":  # one scale for all; perplexities of other models and cuts are far apart
        extents = [[value for extent in extents for value in extent]] * len(panels)
    for ax, (title, members, dense), known in zip(axes, panels, extents, strict=True):
        if kind == "perplexity":
            set_scale(ax, known, "x")
            ax.grid(axis="y", color="#dddddd", lw=0.7)
            ax.set_axisbelow(True)
        low, high = ax.get_xlim() if kind == "perplexity" else (0.0, max(known))
        right = high * (high / low) ** 0.18 if ax.get_xscale() == "log" else high + 0.18 * (high - low)
        ax.set_xlim(low, right)  # room for the values
        _panel(ax, members, columns, dense, names, tunings)
        if len(panels) > 1:
            ax.set_title(wrapped(title, 30, 2), fontsize=10, parse_math=False)
        ax.set_xlabel(name, fontsize=9.5, parse_math=False)
    axes[0].set_yticks(range(len(names)), [wrapped(label) for label in names], fontsize=9, parse_math=False)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    legend(figure, *axes)
    return figure


Panel = tuple[str, list[list[Line]], float | None]  # title, blocks, the dense model's value


def _panels(found: Sequence[Line], columns: Sequence[Column]) -> list[Panel]:
    heights = {line["model"]: _height(line, columns) for line in found if line["method"] == "dense"}
    dense = {model: height.mean for model, height in heights.items() if height is not None}
    keys = [column.key for column in columns]
    pruned = [line for line in measuring(found, keys) if line["method"] != "dense"]
    return [
        (f"{panel[0]['model']}, {cut(panel[0])}", blocks(panel), dense.get(panel[0]["model"]))
        for panel in blocks(pruned, PLACE)
        if any(_height(line, columns) is not None for line in panel)
    ]


def _extent(panel: Panel, columns: Sequence[Column]) -> list[float]:
    """What the axis of a panel has to hold: means, ends of intervals, the dense model's value."""
    _, members, dense = panel
    heights = [height for block in members for line in block if (height := _height(line, columns)) is not None]
    means = [height.mean for height in heights]
    ends = [height.mean + side * height.half for height in heights if height.half for side in (-1, 1)]
    known = [*means, *([] if dense is None else [dense])]
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
        [
            Row(
                **row.model_dump(include={"model", "method", "label", "ratio", "recovery"}),
                recovery_label=labels.get(row.recovery),
                metrics={"average_acc": average / 100},
            )
            for row in item.rows
            if row.model in paper.models.values() and (average := row.metrics.get("average_acc")) is not None
        ]
    )


def _height(line: Line, columns: Sequence[Column]) -> Estimate | None:
    """The mean of the columns, accuracies in percent."""
    found = mean_of(line, columns)
    if found is None or columns[0].kind != "accuracy":
        return found
    return Estimate(100 * found.mean, None if found.half is None else 100 * found.half)


def _panel(
    ax: Axes,
    panel: Sequence[list[Line]],
    columns: Sequence[Column],
    dense: float | None,
    names: Sequence[str],
    tunings: Sequence[str],
) -> None:
    """A line of text a name of `names`, from the top down; in it a place and a colour a tuning of `tunings`."""
    accuracy = columns[0].kind == "accuracy"
    width = 0.8 / len(tunings)
    for block in panel:
        k = tunings.index(tuning(block[0]))
        color = (SKY, BLUE, GREEN, PURPLE)[k % 4]
        for line in block:
            y, height = names.index(line["label"]) + (k - (len(tunings) - 1) / 2) * width, _height(line, columns)
            if height is None:
                failed = line["status"] == "failed"
                ax.text(0.99, y, "failed" if failed else "not run", fontsize=8, color=RED if failed else GREY,
                        transform=ax.get_yaxis_transform(), va="center", ha="right")  # fmt: skip
                continue
            if accuracy:
                ax.barh(y, height.mean, 0.94 * width, color=color, label=short(tuning(line)))
            elif height.mean > ax.get_xlim()[1]:
                ax.text(0.99, y, f"{plus_minus(height.mean, height.half)} →", fontsize=8, color="#333333",
                        transform=ax.get_yaxis_transform(), va="center", ha="right")  # fmt: skip
                continue
            else:
                ax.scatter(height.mean, y, s=36, color=color, label=short(tuning(line)), zorder=3)
            if height.half:
                ax.errorbar(height.mean, y, xerr=height.half, color="#333333", lw=1.1, capsize=3, zorder=4)
            _value(ax, y, height, f"{height.mean:.1f}" if accuracy else plus_minus(height.mean, None))
    if dense is not None:
        text = f"dense {dense:.1f}" if accuracy else f"dense {plus_minus(dense, None)}"
        ax.axvline(dense, color=RED, lw=1.2, ls="--", label=text if len(ax.figure.axes) == 1 else "dense", zorder=2)


def _value(ax: Axes, y: float, height: Estimate, text: str) -> None:
    """A value written right of its interval, or at the axes' edge where that is beyond it."""
    from matplotlib.patheffects import withStroke

    end = min(height.mean + (height.half or 0), ax.get_xlim()[1])
    ax.annotate(
        text, (end, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=7.5, zorder=6,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )  # fmt: skip
