"""What a method's result costs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from reproducer.reporting.cost import Point
from reproducer.reporting.figures.axes import BLUE, FAR, GREY, HEIGHT, WIDTH, apart, new_figure, set_scale, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def front(points: Sequence[Point]) -> Figure:
    """Quality against cost, a point a line; those that no other one beats in both are joined.

    What would squeeze the others is named at the upper edge. All labels stand in one column at the right, where none
    runs into another.
    """
    figure, (ax,) = new_figure(width=1.6 * WIDTH, height=1.2 * HEIGHT)
    positive = [point.cost for point in points if point.cost > 0]
    least, most = 0.4 * min(positive, default=1.0), max(positive, default=1.0)
    limit = FAR * median(point.quality for point in points)
    shown = [point for point in points if point.quality <= limit]
    set_scale(ax, [point.quality + side * (point.half or 0) for point in shown for side in (-1, 1)])
    ax.set_xscale("log")
    ax.set_xlim(0.7 * least, most * (most / least) ** 0.6)  # room for labels
    edge = ax.get_ylim()[1]
    heights = {i: min(point.quality, edge) for i, point in enumerate(points)}
    order = sorted(heights, key=heights.__getitem__)
    bottom, top = ax.transAxes.transform([(0, 0), (0, 1)])[:, 1]
    natural = [(ax.transData.transform((1, heights[i]))[1] - bottom) / (top - bottom) for i in order]
    label_of = dict(zip(order, apart(natural, 0.05), strict=True))
    joined: list[tuple[float, float]] = []
    for i, point in enumerate(points):
        color, x, y = BLUE if point.best else GREY, max(point.cost, least), heights[i]
        far = point.quality > limit
        ax.scatter([x], [y], color=color, s=24, zorder=3, marker="^" if far else "o", clip_on=False)
        if point.half and not far:
            ax.errorbar(x, y, point.half, color=color, lw=0.9, capsize=2, zorder=2)
        if point.best:
            joined.append((x, y))
        ax.annotate(
            short(point.line.label) + (f" ({point.quality:,.0f})" if far else ""),
            xy=(x, y), xytext=(1.5 * most, label_of[i]), textcoords=ax.get_xaxis_transform(), fontsize=8, va="bottom",
            parse_math=False, color=color,
            arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "lw": 0.6, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip
    ax.plot(*zip(*joined, strict=True), color=BLUE, lw=1, alpha=0.4, drawstyle="steps-post", zorder=1)
    ax.set_xlabel("tokens, backward counted twice (log scale)", fontsize=10)
    ax.set_ylabel("mean perplexity (lower is better)", fontsize=10)
    return figure
