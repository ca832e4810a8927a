"""Curves: the history of a search, of several searches over their seeds, and the losses of fine-tuning."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reproducer.reporting.axes import (
    BLUE,
    GREY,
    LINES,
    ORANGE,
    RED,
    SKY,
    labels_at_right,
    legend,
    new_figure,
    set_scale,
    short,
)
from reproducer.reporting.convergence import Histories, best_so_far
from reproducer.reporting.summary import groups, ratio_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAR = 3  # a baseline so many times above the worst trial would squeeze the trials together: it is named at the top


def search_history(search: Mapping[str, Any]) -> "Figure":
    """Objective by trial, counted from 1, best so far, a labelled line a baseline; a rug of trials without a value."""
    from matplotlib.ticker import MaxNLocator

    figure, (ax,) = new_figure()
    trials = search["trials"]
    valued = [trial for trial in trials if trial["value"] is not None]
    values = [trial["value"] for trial in valued]
    baselines = [c for c in search["candidates"] if c["value"] is not None and c["label"] != search["label"]]
    set_scale(ax, values + [c["value"] for c in baselines if c["value"] <= FAR * max(values)])

    first = [trial for trial in valued if trial.get("baseline")]
    own = [trial for trial in valued if not trial.get("baseline")]
    ax.scatter(*_points(own), s=18, color=SKY, zorder=3, label="trial")
    if first:
        ax.scatter(*_points(first), s=34, color=ORANGE, marker="D", zorder=4, label="trial set to a baseline")
    best = [min(values[: i + 1]) for i in range(len(values))]
    numbers = [trial["number"] + 1 for trial in valued]
    last = max(trial["number"] for trial in trials) + 1
    ax.step([*numbers, last], [*best, best[-1]], where="post", color=BLUE, lw=2, zorder=5, label="best so far")
    for baseline in baselines:
        if baseline["value"] > ax.get_ylim()[1]:
            continue  # its label alone, with an arrow, at the top
        ax.axhline(baseline["value"], color=GREY, lw=0.9, ls="--", zorder=1)
    lost = [trial["number"] + 1 for trial in trials if trial["value"] is None]
    if lost:  # a rug along the bottom of the axes
        ax.scatter(
            lost, [0.02] * len(lost), transform=ax.get_xaxis_transform(), marker="x", s=24, color=RED, zorder=4,
            label="failed or stopped trial",
        )  # fmt: skip
    ax.set_xlabel("trial", fontsize=10)
    ax.set_ylabel("objective (lower is better)", fontsize=10)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    labels_at_right(figure, ax, baselines)
    legend(figure, ax)
    return figure


def _points(trials: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    return [trial["number"] + 1 for trial in trials], [trial["value"] for trial in trials]


def convergence(group: Histories) -> "Figure":
    """Best so far by trial: for each label the mean over its seeds, and a band from the least to the greatest."""
    from matplotlib.ticker import MaxNLocator

    figure, (ax,) = new_figure()
    shown: list[float] = []
    for (label, searches), color in zip(group.by_label.items(), _colours(len(group.by_label)), strict=True):
        curves = [best_so_far(search) for search in searches.values()]
        start = max(next(i for i, value in enumerate(curve) if value < float("inf")) for curve in curves)
        at = range(start, max(start + 1, min(map(len, curves))))
        curves = [curve + curve[-1:] * (len(at) + start - len(curve)) for curve in curves]  # a short one keeps its best
        mean = [sum(curve[i] for curve in curves) / len(curves) for i in at]
        low, high = ([pick(curve[i] for curve in curves) for i in at] for pick in (min, max))
        counts = [i + 1 for i in at]
        text = f"{short(label, 30)} ({len(curves)} seeds)" if len(curves) > 1 else short(label, 30)
        ax.step(counts, mean, where="post", color=color, lw=2, label=text, zorder=3)
        if len(curves) > 1:
            ax.fill_between(counts, low, high, step="post", color=color, alpha=0.2, lw=0, zorder=2)
        settled = len(at) // 10  # what lies above the curves from here on may be cut off
        shown += low[settled:] + high[settled:]
    set_scale(ax, shown)
    ax.set_xlabel("trials made", fontsize=10)
    ax.set_ylabel("best objective so far", fontsize=10)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, ax)
    return figure


def losses(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Loss by step of every row that was trained: a panel a model and cut, a colour a method, smoothed where noisy."""
    panels: dict[tuple, list] = {}
    for line in groups([row for row in rows if row.get("training")]):
        panels.setdefault(line.block[:3], []).append(line)
    figure, axes = new_figure(len(panels), width=max(5.4, 3.9 * len(panels)))
    labels = list(dict.fromkeys(line.label for panel in panels.values() for line in panel))
    colours = dict(zip(labels, _colours(len(labels)), strict=True))
    for ax, ((model, ratio, structure_ratio), panel) in zip(axes, panels.items(), strict=True):
        for line in panel:
            for i, row in enumerate(line.rows):
                steps = [point["step"] for point in row["training"]]
                values = [point["loss"] for point in row["training"]]
                window = max(1, len(values) // 15)
                if window > 1:
                    ax.plot(steps, values, color=colours[line.label], lw=0.6, alpha=0.25)
                ax.plot(
                    steps, smoothed(values, window), color=colours[line.label], lw=1.5 if len(line.rows) == 1 else 1,
                    marker="o" if len(values) == 1 else None, label=short(line.label, 30) if i == 0 else None,
                )  # fmt: skip
        if len(panels) > 1:
            ax.set_title(f"{model}, {ratio_text(ratio, structure_ratio)}", fontsize=10, parse_math=False)
        ax.set_xlabel("step", fontsize=10)
    axes[0].set_ylabel("training loss", fontsize=10)
    legend(figure, *axes)
    return figure


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Means over `window` neighbours before and after each value and itself, fewer at the ends."""
    around = [values[max(0, i - window) : i + window + 1] for i in range(len(values))] if window > 1 else []
    return [sum(part) / len(part) for part in around] or list(values)


def _colours(count: int) -> list[str]:
    return [LINES[i % len(LINES)] for i in range(count)]
