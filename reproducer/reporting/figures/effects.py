"""The paper's claims: the effect that each asks for, the paper's, and ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reproducer.reporting.figures.axes import BLUE, GREY, RED, WIDTH, legend, new_figure, wrapped
from reproducer.reporting.verdicts import Verdict, first_screen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTCOMES = {"supported": BLUE, "contradicted": RED, "inconclusive": GREY, "not tested": GREY}


def claims(verdicts: Sequence[Verdict]) -> Figure:
    """A claim with an interval a line: by how much its effect here, and the paper's, is beyond what the claim asks for.

    Right of the line is what the paper claims, left of it the opposite; a panel a unit. Of many claims those of the
    first screen, where one of them has an effect. Claims have the numbers that the report gives them.
    """
    from matplotlib.ticker import MaxNLocator

    known = [(number, verdict) for number, verdict in enumerate(verdicts, start=1) if verdict.low is not None]
    first = {number for number, _ in first_screen(verdicts)}
    tested = [(number, verdict) for number, verdict in known if number in first] or known
    units = list(dict.fromkeys(verdict.unit for _, verdict in tested))
    panels = [[verdict for _, verdict in tested if verdict.unit == unit] for unit in units]
    texts = [
        [wrapped(f"{number}. {verdict.text}", 58) for number, verdict in tested if verdict.unit == unit]
        for unit in units
    ]
    heights = [0.65 + 0.24 * sum(text.count("\n") + 1.6 for text in of_panel) for of_panel in texts]
    figure, axes = new_figure(width=1.6 * WIDTH, heights=heights)
    for ax, panel, names in zip(axes, panels, texts, strict=True):
        for y, verdict in enumerate(panel):
            color = OUTCOMES[verdict.outcome]
            if verdict.low is not None and verdict.high is not None:
                ends = [_beyond(verdict, end) for end in (verdict.low, verdict.high)]
                ax.plot(ends, [y, y], color=color, lw=2, solid_capstyle="butt", zorder=2)
            if verdict.ours is not None:
                ax.scatter(
                    _beyond(verdict, verdict.ours), y, s=36, color=color, label=f"here: {verdict.outcome}", zorder=3
                )
            if verdict.paper is not None:
                ax.scatter(_beyond(verdict, verdict.paper), y, s=30, marker="D", facecolor="none", edgecolor="#333333",
                           label="the paper", zorder=4)  # fmt: skip
        ax.axvline(0, color="#333333", lw=0.9, zorder=1)
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.set_yticks(range(len(panel)), names, fontsize=8.5, parse_math=False)
        ax.set_ylim(len(panel) - 0.4, -0.6)
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.set_xlabel(f"{panel[0].unit} beyond what the claim asks for (right: as claimed)", fontsize=9)
    legend(figure, *axes)
    return figure


def _beyond(verdict: Verdict, value: float) -> float:
    """How far an effect is beyond what the claim asks for; below 0 on the other side."""
    return (value - (verdict.threshold or 0.0)) * (1 if verdict.favourable == "higher" else -1)
