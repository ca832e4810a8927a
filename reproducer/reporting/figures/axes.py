"""What all figures share: colours, size, scales, and labels that keep apart."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from reproducer.reporting.escape import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7f7f7f",
)  # fmt: skip
LINES = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, "#333333", "#8c6d31", GREY)
DASHES = ("-", "--", ":", "-.")  # of lines whose colour is taken
FAR = 3  # so many times above the median method a value would squeeze the others together
PANEL = ("model", "ratio", "structure_ratio")  # what a figure has a panel for
WIDTH, HEIGHT = 5.4, 3.5  # inches; text stays readable at half a page's width


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of a figure's line with this index: no two of 36 are the same."""
    return {"color": LINES[index % len(LINES)], "ls": DASHES[index // len(LINES) % len(DASHES)]}


def new_figure(panels: int = 1, width: float = WIDTH, height: float = HEIGHT) -> tuple["Figure", list["Axes"]]:
    """A figure with panels beside each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=9)
    return figure, list(axes)


def set_scale(ax: "Axes", values: Sequence[float], of: Literal["x", "y"] = "y") -> None:
    """Logarithmic where the largest value is more than three times the smallest; plain numbers at the ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis, set_limits = (ax.xaxis, ax.set_xlim) if of == "x" else (ax.yaxis, ax.set_ylim)
    low, high = min(values), max(values)
    if low > 0 and high > 3 * low:
        (ax.set_xscale if of == "x" else ax.set_yscale)("log")
        subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high < 8 * low else (1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_minor_locator(NullLocator())
        margin = (high / low) ** 0.06
        set_limits(low / margin**1.6, high * margin)
    else:
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        set_limits(low - 1.6 * margin, high + margin)
        axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}" if value < 1e6 else f"{value:.0e}"))


def apart(heights: Sequence[float], step: float) -> list[float]:
    """The sorted `heights` moved up so that neighbours are at least `step` apart, then all down by half the most."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + step) if placed else height)
    most = max(moved - height for moved, height in zip(placed, heights, strict=True))
    return [height - most / 2 for height in placed]


def short(label: str, limit: int = 60) -> str:
    label = one_line(label)
    return label if len(label) <= limit else label[: limit - 1] + "…"


def wrapped(label: str, width: int = 34, rows: int = 3) -> str:
    """A label in lines of at most `width` characters; what `rows` lines do not hold is left out."""
    return textwrap.fill(one_line(label), width, max_lines=rows, placeholder=" …")


def legend(figure: "Figure", *axes: "Axes") -> None:
    """One legend above the figure, which grows by it, for all its panels: each name once, in lines that fit."""
    handles = {text: handle for ax in axes for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    fitting = int(13 * figure.get_figwidth() / (max(map(len, handles)) + 6))  # 13 letters an inch, and the handle
    columns = max(1, min(4, fitting))
    figure.set_figheight(figure.get_figheight() + 0.17 * (len(handles) // columns))
    drawn = figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=columns, fontsize=8, frameon=False,
        columnspacing=1.2, handletextpad=0.4,
    )  # fmt: skip
    for text in drawn.get_texts():
        text.set_parse_math(False)
