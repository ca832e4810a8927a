"""Bars by method: the paper's Figures 3 and 5, its own bars beside ours where it prints them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reproducer.reporting.axes import BLUE, GREEN, HEIGHT, PURPLE, RED, SKY, WIDTH, legend, new_figure, set_scale, short
from reproducer.reporting.compare import averaged_over, item_key, load_item
from reproducer.reporting.summary import Group, blocks, groups, mean, perplexity_text, ratio_text, recovery_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def averaged(results: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """The metrics whose mean a bar shows: `average_acc` where the run has it, else all of the kind."""
    found = [metric for metric in results["metrics"] if metric["kind"] == kind]
    return [metric for metric in found if metric["key"] == "average_acc"] or found


Panel = tuple[str, list[list[Group]], float | None]  # title, blocks, the dense model's height


def averages(results: Mapping[str, Any], kind: str) -> "Figure | None":
    """Bars by method, a panel a model and ratio, colours by recovery; None if no pruned row has the metrics.

    A group counts only with all of the metrics; accuracies are in percent, perplexities on a logarithmic axis where
    they differ much. Accuracies have the paper's own averages in panels beside them, where they are known.
    """
    metrics = averaged(results, kind)
    lines = groups(results["rows"])
    if not metrics or not (panels := _panels(lines, metrics)):
        return None
    if kind == "accuracy" and metrics[0]["key"] == "average_acc":
        printed = _panels(_paper_lines(results), metrics)
        panels += [(f"{title} (paper)", members, dense) for title, members, dense in printed]
    names = [{line.label for block in members for line in block} for _, members, _ in panels]
    width = max(WIDTH, 0.85 * max(map(len, names)) * len(panels))
    figure, axes = new_figure(len(panels), width=min(width, 3 * WIDTH), height=HEIGHT)
    heights = [_height(line, metrics) for _, members, _ in panels for block in members for line in block]
    everything = [h for h in [*heights, *(dense for *_, dense in panels)] if h is not None]
    for ax, (title, members, dense) in zip(axes, panels, strict=True):
        _panel(ax, members, metrics, dense, kind)
        if len(panels) > 1:
            ax.set_title(title, fontsize=10, parse_math=False)
        if kind == "perplexity":
            set_scale(ax, everything)
            ax.set_ylim(bottom=min(everything) / 1.3 if ax.get_yscale() == "log" else 0)
            ax.set_ylim(top=ax.get_ylim()[1] * (1.25 if ax.get_yscale() == "log" else 1.08))
        else:
            ax.set_ylim(0, 1.12 * max(everything))
    label = "average accuracy (%)" if len(metrics) > 1 or metrics[0]["key"] == "average_acc" else metrics[0]["label"]
    axes[0].set_ylabel("mean perplexity (lower is better)" if kind == "perplexity" else label, fontsize=10)
    legend(figure, *axes)
    return figure


def _panels(lines: Sequence[Group], metrics: Sequence[Mapping[str, Any]]) -> list[Panel]:
    dense = {line.model: _height(line, metrics) for line in lines if line.dense}
    found: dict[tuple, list[list[Group]]] = {}
    for block in blocks([line for line in lines if not line.dense]):
        if any(_height(line, metrics) is not None for line in block):
            found.setdefault(block[0].block[:3], []).append(block)
    return [
        (f"{model}, {ratio_text(ratio, structure_ratio)}", members, dense.get(model))
        for (model, ratio, structure_ratio), members in found.items()
    ]


def _paper_lines(results: Mapping[str, Any]) -> list[Group]:
    """The paper's rows, of the models that ours stand for, as if they were rows of ours."""
    key, paper = item_key(results["spec"].get("reproduces")), results.get("paper")
    if key is None or not paper or not paper.get("models"):
        return []
    rows = []
    for row in averaged_over(load_item(key), results["metrics"])["rows"]:
        average = row["metrics"].get("average_acc")
        if row["model"] in paper["models"].values() and average is not None:
            values = {"average_acc": average / 100}
            rows.append({**row, "structure_ratio": None, "metrics": values, "status": "done"})
    return groups(rows)


def _height(line: Group, metrics: Sequence[Mapping[str, Any]]) -> float | None:
    values = [mean(line.values(metric["key"])) for metric in metrics]
    known = [value for value in values if value is not None]
    if not metrics or len(known) < len(metrics):
        return None
    return sum(known) / len(known) * (100 if metrics[0]["kind"] == "accuracy" else 1)


def _panel(
    ax: "Axes", panel: list[list[Group]], metrics: Sequence[Mapping[str, Any]], dense: float | None, kind: str
) -> None:
    from matplotlib.patheffects import withStroke

    names = list(dict.fromkeys(line.label for block in panel for line in block))
    width = 0.8 / len(panel)
    for k, (block, color) in enumerate(zip(panel, (SKY, BLUE, GREEN, PURPLE), strict=False)):
        for line in block:
            x, height = names.index(line.label) + (k - (len(panel) - 1) / 2) * width, _height(line, metrics)
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
            ax.annotate(
                text, (x, height), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7.5,
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
    if dense is not None:
        ax.axhline(dense, color=RED, lw=1.2, ls="--", label="dense", zorder=0.5 if kind == "accuracy" else 2)
        number = f"{dense:.1f}" if kind == "accuracy" else perplexity_text(dense)
        ax.annotate(
            number, (1, dense), xycoords=("axes fraction", "data"), xytext=(2, 0), textcoords="offset points",
            va="center", fontsize=7.5, color=RED, annotation_clip=False,
        )  # fmt: skip
    ax.set_xticks(range(len(names)), [short(name) for name in names], fontsize=8.5, parse_math=False)
    for tick in ax.get_xticklabels():
        tick.set(rotation=25, ha="right", rotation_mode="anchor")
