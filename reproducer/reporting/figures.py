"""The figures of a report, written as PNG, and as PDF for LaTeX. Their captions are in the templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas

from reproducer.reporting.axes import (
    BLUE,
    GREEN,
    GREY,
    HEIGHT,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    WIDTH,
    apart,
    labels_at_right,
    legend,
    line_style,
    new_figure,
    new_rows,
    set_scale,
    short,
    wrapped,
)
from reproducer.reporting.comparison import item_of
from reproducer.reporting.controls import control_rows
from reproducer.reporting.cost import Point, fronts, mean_of
from reproducer.reporting.filters import first_screen
from reproducer.reporting.numbers import UNTUNED, cut, perplexity, plus_minus, tuning
from reproducer.reporting.rows import Estimate, Line, blocks, lines, measuring, with_results
from reproducer.reporting.searches import MANY, Histories, alike, best_so_far, histories
from reproducer.reporting.verdicts import Verdict
from reproducer.stages.results import Column, Results, Row, Search

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR = 3  # so many times above the worst trial, or the median method, a value would squeeze the others together
DPI, COLOURS = 160, 64  # of a PNG
PLACE = ("model", "ratio", "structure_ratio")


@dataclass(frozen=True)
class Picture:
    """A figure that was drawn.

    Attributes:
        kind: `claims`, `accuracy`, `perplexity`, `cost`, `training`, `histories` or `search`.
        name: of its files, without their endings.
        of: what it shows: the verdicts, the columns, the `Point`s, the `Histories`, or the place of the search in the
            results.
        wide: it needs a page's whole width.
        png: its file.
    """

    kind: str
    name: str
    of: Any
    wide: bool
    png: Path


def draw(results: Results, directory: Path, verdicts: Sequence[Verdict] = ()) -> list[Picture]:
    """Draw what there are figures for into `directory`, each as `name`.png and `name`.pdf."""
    drawn: list[Picture] = []

    def save(figure: Figure, kind: str, name: str, of: Any) -> None:
        name = re.sub(r"[^a-z0-9]+", "-", name.lower().replace("%", "")).strip("-")[:100]
        taken = {picture.name for picture in drawn}
        name = next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
        png = directory / f"{name}.png"
        _write_png(figure, png)
        figure.set_layout_engine("none")  # the places stay as found: to find them takes as long as to draw
        figure.savefig(directory / f"{name}.pdf", metadata={"CreationDate": None})  # same results, same bytes
        drawn.append(Picture(kind, name, of, figure.get_figwidth() > 1.3 * WIDTH, png))

    directory.mkdir(parents=True, exist_ok=True)
    if any(one.low is not None for one in verdicts):
        save(claims(verdicts), "claims", "claims", verdicts)
    labels = _labels(results)
    compared = _only(results, labels)
    for kind in ("accuracy", "perplexity"):
        if (figure := averages(compared, kind)) is not None:
            save(figure, kind, f"average-{kind}", averaged(compared, kind))
    for points in fronts(_only(results, labels | {row.label for row in control_rows(results)})):
        first = points[0].line
        save(front(points), "cost", f"cost-{first['model']}-{cut(first)}", points)
    if any(row.training for row in results.rows):
        save(losses(results.rows), "training", "training-loss", None)
    for group in histories(results.searches):
        save(convergence(group), "histories", f"histories-{group.model}-{cut(group)}", group)
    alone = {id(group[0]) for group in alike(results.searches)}  # where there are many, one seed of each
    for i, search in enumerate(results.searches):
        if (len(results.searches) <= MANY or id(search) in alone) and any(
            trial.value is not None for trial in search.trials
        ):
            name = f"search-{search.model}-{search.label}-{cut(search)}-seed{search.seed}"
            save(search_history(search), "search", name, i)
    return drawn


def _write_png(figure: Figure, path: Path) -> None:
    """In as few colours as a drawing needs, which makes a third of the size."""
    import io

    from PIL import Image

    whole = io.BytesIO()
    figure.savefig(whole, dpi=DPI, format="png")
    Image.open(whole).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def _labels(results: Results) -> set[str]:
    """The rows that figures compare: all or, of a document, those of its first part."""
    rows = results.of_part(results.parts[0]).rows if results.parts else results.rows
    return {row.label for row in rows}


def _only(results: Results, labels: set[str]) -> Results:
    """The rows of these labels; of a document, with the columns of its first part."""
    rows = [row for row in results.rows if row.method == "dense" or row.label in labels]
    columns = results.of_part(results.parts[0]).columns if results.parts else results.columns
    return results.model_copy(update={"rows": rows, "columns": columns})


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


OUTCOMES = {"supported": BLUE, "contradicted": RED, "inconclusive": GREY, "not tested": GREY}


def claims(verdicts: Sequence[Verdict]) -> Figure:
    """A claim with an interval a line: by how much its effect here, and the paper's, is beyond what the claim asks for.

    Right of the line is what the paper claims, left of it the opposite; a panel a unit. Of many claims those of the
    first screen, where one of them has an effect. Claims have the numbers that the report gives them.
    """
    from matplotlib.ticker import MaxNLocator

    whole = [(number, one) for number, one in enumerate(verdicts, start=1) if one.low is not None]
    first = {number for _, members in first_screen(verdicts) for number, _ in members}
    tested = [(number, one) for number, one in whole if number in first] or whole
    units = list(dict.fromkeys(one.unit for _, one in tested))
    panels = [[one for _, one in tested if one.unit == unit] for unit in units]
    texts = [[wrapped(f"{number}. {one.text}", 58) for number, one in tested if one.unit == unit] for unit in units]
    figure, axes = new_rows([sum(text.count("\n") + 1.6 for text in of_panel) for of_panel in texts])
    for ax, panel, names in zip(axes, panels, texts, strict=True):
        for y, one in enumerate(panel):
            color = OUTCOMES[one.outcome]
            if one.low is not None and one.high is not None:
                ends = [_beyond(one, end) for end in (one.low, one.high)]
                ax.plot(ends, [y, y], color=color, lw=2, solid_capstyle="butt", zorder=2)
            if one.ours is not None:
                ax.scatter(_beyond(one, one.ours), y, s=36, color=color, label=f"here: {one.outcome}", zorder=3)
            if one.paper is not None:
                ax.scatter(_beyond(one, one.paper), y, s=30, marker="D", facecolor="none", edgecolor="#333333",
                           label="the paper", zorder=4)  # fmt: skip
        ax.axvline(0, color="#333333", lw=0.9, zorder=1)
        ax.set_yticks(range(len(panel)), names, fontsize=8.5, parse_math=False)
        ax.set_ylim(len(panel) - 0.4, -0.6)
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.set_xlabel(f"{panel[0].unit} beyond what the claim asks for (right: as claimed)", fontsize=9)
    legend(figure, *axes)
    return figure


def _beyond(one: Verdict, value: float) -> float:
    """How far an effect is beyond what the claim asks for; below 0 on the other side."""
    return (value - (one.threshold or 0.0)) * (1 if one.favourable == "higher" else -1)


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
    told = [(ax.transData.transform((1, heights[i]))[1] - bottom) / (top - bottom) for i in order]
    label_of = dict(zip(order, apart(told, 0.05), strict=True))
    places: list[tuple[float, float]] = []
    for i, point in enumerate(points):
        color, x, y = BLUE if point.best else GREY, max(point.cost, least), heights[i]
        far = point.quality > limit
        ax.scatter([x], [y], color=color, s=24, zorder=3, marker="^" if far else "o", clip_on=False)
        if point.half and not far:
            ax.errorbar(x, y, point.half, color=color, lw=0.9, capsize=2, zorder=2)
        if point.best:
            places.append((x, y))
        ax.annotate(
            short(point.line["label"]) + (f" ({point.quality:,.0f})" if far else ""),
            xy=(x, y), xytext=(1.5 * most, label_of[i]), textcoords=ax.get_xaxis_transform(), fontsize=8, va="bottom",
            parse_math=False, color=color,
            arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "lw": 0.6, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip
    ax.plot(*zip(*places, strict=True), color=BLUE, lw=1, alpha=0.4, drawstyle="steps-post", zorder=1)
    ax.set_xlabel("tokens, backward counted twice (log scale)", fontsize=10)
    ax.set_ylabel("mean perplexity (lower is better)", fontsize=10)
    return figure


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


def losses(rows: Sequence[Row]) -> Figure:
    """Loss by step of every row that was trained: a panel a model and cut, a colour a method, smoothed where noisy."""
    panels = blocks(lines([row for row in rows if row.training]), PLACE)
    figure, axes = new_figure(len(panels), width=max(WIDTH, 3.9 * len(panels)))
    labels = list(dict.fromkeys(line["label"] for panel in panels for line in panel))
    for ax, panel in zip(axes, panels, strict=True):
        for line in panel:
            style, label = line_style(labels.index(line["label"])), short(line["label"])
            for row in line["rows"]:
                loss = pandas.Series([step.loss for step in row.training], [step.step for step in row.training])
                window = 2 * (len(loss) // 15) + 1
                if window > 1:
                    ax.plot(loss.index, loss, color=style["color"], lw=0.6, alpha=0.25)
                ax.plot(
                    loss.rolling(window, center=True, min_periods=1).mean(), **style, label=label,
                    lw=1.5 if len(line["rows"]) == 1 else 1, marker="o" if len(loss) == 1 else None,
                )  # fmt: skip
        if len(panels) > 1:
            ax.set_title(short(f"{panel[0]['model']}, {cut(panel[0])}", 40), fontsize=10, parse_math=False)
        ax.set_xlabel("step", fontsize=10)
    axes[0].set_ylabel("training loss", fontsize=10)
    legend(figure, *axes)
    return figure
