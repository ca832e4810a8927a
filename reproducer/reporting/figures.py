"""Figures: the history of each search, and averages by method (the paper's Figures 3 and 5). PNG, and PDF for LaTeX."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproducer.reporting.summary import Group, blocks, groups, mean, perplexity_text, ratio_text, recovery_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7f7f7f",
)  # fmt: skip
WIDTH, HEIGHT = 5.4, 3.5  # inches; text stays readable at half a page's width
FAR = 3  # a baseline so many times above the worst trial would squeeze the trials together: it is named at the top


def draw(results: Mapping[str, Any], directory: Path) -> list[dict[str, str]]:
    """Draw what `results` has figures for into `directory`.

    Returns:
        For each figure `name` (a file name without its ending: `name`.png and `name`.pdf were written), `title` and
        `caption`.
    """
    drawn: list[dict[str, str]] = []

    def save(figure: "Figure", name: str, title: str, more: str) -> None:
        taken = [other["name"] for other in drawn]
        name = next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
        _save(figure, directory / name)
        drawn.append({"name": name, "title": title, "caption": title + more})

    directory.mkdir(parents=True, exist_ok=True)
    for search in results.get("searches") or []:
        if not any(trial["value"] is not None for trial in search["trials"]):
            continue
        ratio = ratio_text(search.get("ratio"), search.get("structure_ratio"))
        name = _slug("search", search["model"], search["label"], ratio, f"seed{search['seed']}")
        title = f"Search history of {search['label']} on {search['model']} at {ratio}, seed {search['seed']}"
        more = ": each trial’s objective (lower is better) and the best so far, with the baselines on the same texts."
        save(search_history(search), name, title, more)
    for kind, name, title in (
        ("accuracy", "average-accuracy", "Average zero-shot accuracy by method"),
        ("perplexity", "average-perplexity", "Mean perplexity by method"),
    ):
        figure = averages(results, kind)
        if figure is not None:
            keys = [metric["label"] for metric in _averaged(results, kind)]
            of = "" if len(keys) == 1 else f" (mean of {', '.join(keys)})"
            save(figure, name, title, f"{of}; the dashed line is the dense model.")
    return drawn


def _slug(*parts: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower().replace("%", "")).strip("-")


def _save(figure: "Figure", path: Path) -> None:
    figure.savefig(path.with_name(f"{path.name}.png"), dpi=200)
    figure.savefig(path.with_name(f"{path.name}.pdf"), metadata={"CreationDate": None})  # same results, same bytes


def _new(columns: int = 1, width: float = WIDTH, height: float = HEIGHT) -> tuple["Figure", list["Axes"]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=9)
    return figure, list(axes)


def search_history(search: Mapping[str, Any]) -> "Figure":
    """Objective by trial, best so far, a labelled line a baseline; trials without a value are marked below the axis."""
    from matplotlib.ticker import MaxNLocator

    figure, (ax,) = _new()
    trials = search["trials"]
    valued = [trial for trial in trials if trial["value"] is not None]
    values = [trial["value"] for trial in valued]
    baselines = [c for c in search["candidates"] if c["value"] is not None and c["label"] != search["label"]]
    _scale(ax, values + [c["value"] for c in baselines if c["value"] <= FAR * max(values)])

    first = [trial for trial in valued if trial.get("baseline")]
    own = [trial for trial in valued if not trial.get("baseline")]
    ax.scatter(*_points(own), s=18, color=SKY, zorder=3, label="trial")
    if first:
        ax.scatter(*_points(first), s=34, color=ORANGE, marker="D", zorder=4, label="trial set to a baseline")
    best = [min(values[: i + 1]) for i in range(len(values))]
    numbers = [trial["number"] for trial in valued]
    last = max(trial["number"] for trial in trials)
    ax.step([*numbers, last], [*best, best[-1]], where="post", color=BLUE, lw=2, zorder=5, label="best so far")
    for baseline in baselines:
        if baseline["value"] > ax.get_ylim()[1]:
            continue  # its label alone, with an arrow, at the top
        ax.axhline(baseline["value"], color=GREY, lw=0.9, ls="--", zorder=1)
    lost = [trial["number"] for trial in trials if trial["value"] is None]
    if lost:  # a rug along the bottom of the axes
        ax.scatter(
            lost, [0.02] * len(lost), transform=ax.get_xaxis_transform(), marker="x", s=24, color=RED, zorder=4,
            label="failed or pruned trial",
        )  # fmt: skip
    ax.set_xlabel("trial", fontsize=10)
    ax.set_ylabel("objective (lower is better)", fontsize=10)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _labels_at_right(figure, ax, baselines)
    figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False, columnspacing=1.2, handletextpad=0.4)
    return figure


def _points(trials: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    return [trial["number"] for trial in trials], [trial["value"] for trial in trials]


def _scale(ax: "Axes", values: Sequence[float]) -> None:
    """Logarithmic where the largest value is more than three times the smallest; plain numbers at the ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = min(values), max(values)
    if low > 0 and high > 3 * low:
        ax.set_yscale("log")
        subs = (1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)
        ax.yaxis.set_major_locator(LogLocator(subs=subs))
        ax.yaxis.set_minor_locator(NullLocator())
        margin = (high / low) ** 0.06
        ax.set_ylim(low / margin**1.6, high * margin)
    else:
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        ax.set_ylim(low - 1.6 * margin, high + margin)
        ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}" if value < 1e6 else f"{value:.0e}"))


def _labels_at_right(figure: "Figure", ax: "Axes", baselines: Sequence[Mapping[str, Any]]) -> None:
    """Write each baseline's name and value right of its line, moved apart where lines lie close."""
    if not baselines:
        return
    low, high = ax.get_ylim()
    log = ax.get_yscale() == "log"

    def height(value: float) -> float:
        a, b, v = (math.log(x) if log else x for x in (low, high, value))
        return min((v - a) / (b - a), 1.0)

    step = 0.062  # of the axes' height: a line of text
    ordered = sorted(baselines, key=lambda baseline: baseline["value"])
    places = apart([height(baseline["value"]) for baseline in ordered], step)
    for baseline, place in zip(ordered, places, strict=True):
        beyond = " ↑" if baseline["value"] > high else ""
        ax.annotate(
            f"{_short(baseline['label'])} {perplexity_text(baseline['value'])}{beyond}",
            xy=(1.0, height(baseline["value"])), xytext=(1.04, place), xycoords="axes fraction",
            textcoords="axes fraction", fontsize=8, va="center", color="#333333", annotation_clip=False,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.7, "shrinkA": 1, "shrinkB": 0},
        )  # fmt: skip


def apart(places: Sequence[float], step: float) -> list[float]:
    """The sorted `places` moved as little as possible so that neighbours are at least `step` apart."""
    clusters: list[list[float]] = []  # the places of labels that touch; each cluster is centred on their mean
    for place in places:
        clusters.append([place])
        while len(clusters) > 1 and _top(clusters[-2], step) + step > _bottom(clusters[-1], step):
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return [_bottom(cluster, step) + i * step for cluster in clusters for i in range(len(cluster))]


def _bottom(cluster: Sequence[float], step: float) -> float:
    return sum(cluster) / len(cluster) - step * (len(cluster) - 1) / 2


def _top(cluster: Sequence[float], step: float) -> float:
    return _bottom(cluster, step) + step * (len(cluster) - 1)


def _short(label: str, limit: int = 22) -> str:
    label = " ".join(label.split())
    return label if len(label) <= limit else label[: limit - 1] + "…"


def _averaged(results: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """The metrics whose mean a bar shows: `average_acc` where the run has it, else all of the kind."""
    found = [metric for metric in results["metrics"] if metric["kind"] == kind]
    return [metric for metric in found if metric["key"] == "average_acc"] or found


def averages(results: Mapping[str, Any], kind: str) -> "Figure | None":
    """Bars by method, a panel a model and ratio, colours by recovery; None if no pruned row has the metrics.

    A group counts only with all of the metrics; accuracies are in percent, perplexities on a logarithmic axis where
    they differ much.
    """
    metrics = _averaged(results, kind)
    lines = groups(results["rows"])
    heights = {id(line): _height(line, metrics) for line in lines}
    panels: dict[tuple, list[list[Group]]] = {}
    for block in blocks([line for line in lines if not line.dense]):
        if any(heights[id(line)] is not None for line in block):
            panels.setdefault(block[0].block[:3], []).append(block)
    if not metrics or not panels:
        return None
    most = max(len({line.label for block in panel for line in block}) for panel in panels.values())
    figure, axes = _new(len(panels), width=max(WIDTH, 0.85 * most * len(panels)), height=HEIGHT)
    dense = {line.model: heights[id(line)] for line in lines if line.dense}
    everything = [h for h in heights.values() if h is not None]
    for ax, ((model, ratio, structure_ratio), panel) in zip(axes, panels.items(), strict=True):
        _panel(ax, panel, heights, dense.get(model), kind)
        if len(panels) > 1:
            ax.set_title(f"{model}, {ratio_text(ratio, structure_ratio)}", fontsize=10, parse_math=False)
        if kind == "perplexity":
            _scale(ax, everything)
            ax.set_ylim(bottom=min(everything) / 1.3 if ax.get_yscale() == "log" else 0)
            ax.set_ylim(top=ax.get_ylim()[1] * (1.25 if ax.get_yscale() == "log" else 1.08))
        else:
            ax.set_ylim(0, 1.12 * max(everything))
    label = "average accuracy (%)" if len(metrics) > 1 or metrics[0]["key"] == "average_acc" else metrics[0]["label"]
    axes[0].set_ylabel("mean perplexity (lower is better)" if kind == "perplexity" else label, fontsize=10)
    handles = {text: handle for ax in axes for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=4, fontsize=8, frameon=False
    )  # fmt: skip
    return figure


def _height(line: Group, metrics: Sequence[Mapping[str, Any]]) -> float | None:
    values = [mean(line.values(metric["key"])) for metric in metrics]
    known = [value for value in values if value is not None]
    if not metrics or len(known) < len(metrics):
        return None
    return sum(known) / len(known) * (100 if metrics[0]["kind"] == "accuracy" else 1)


def _panel(
    ax: "Axes", panel: list[list[Group]], heights: Mapping[int, float | None], dense: float | None, kind: str
) -> None:
    names = list(dict.fromkeys(line.label for block in panel for line in block))
    width = 0.8 / len(panel)
    for k, (block, color) in enumerate(zip(panel, (SKY, BLUE, GREEN, PURPLE), strict=False)):
        for line in block:
            x, height = names.index(line.label) + (k - (len(panel) - 1) / 2) * width, heights[id(line)]
            label = recovery_text(line.recovery) if line is block[0] else None
            if height is None:
                ax.text(x, 0.01, "failed" if line.failed else "–", transform=ax.get_xaxis_transform(), fontsize=8,
                        ha="center", va="bottom", rotation=90 if line.failed else 0, color=RED)  # fmt: skip
                ax.bar(x, 0, width, color=color, label=label)
                continue
            ax.bar(x, height, 0.94 * width, color=color, label=label)
            text = perplexity_text(height) if kind == "perplexity" and height < 100 else f"{height:.4g}"
            if kind == "accuracy":
                text = f"{height:.1f}"
            ax.annotate(text, (x, height), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7.5)
    if dense is not None:
        ax.axhline(dense, color=RED, lw=1.2, ls="--", label="dense")
    ax.set_xticks(range(len(names)), [_short(name) for name in names], fontsize=8.5, parse_math=False)
    for tick in ax.get_xticklabels():
        tick.set(rotation=25, ha="right", rotation_mode="anchor")
