"""The race of a candidate against the best one so far.

A candidate is measured on an eighth of the search texts, then on as much again, and so on, and given up as soon as it
is hopeless. Both are measured on the same windows, and the race compares them window by window: windows differ far more
from each other than a window does under two similar models. A candidate is hopeless if, going by the windows so far, a
candidate as good as the best one would look better than it in four cases of five. This loses a few good candidates,
which costs less than measuring every poor one to the end.
"""

from __future__ import annotations

import math

from scipy.stats import t as student
from torch import Tensor

FIRST_SHARE = 8  # one window in eight is in the first round
MIN_WINDOWS = 4  # of a text in the first round: the spread of fewer says nothing
CHANCE = 0.2  # that a round gives up a candidate as good as the best


def race_rounds(sizes: list[int]) -> list[list[int]]:
    """Indices of the windows that each round adds; a single round where a text is too short for more.

    The windows of a round and those before it are spread evenly over each text.

    Args:
        sizes: windows of each text; the windows of all texts are numbered in a row.
    """
    if min(sizes) < 2 * MIN_WINDOWS:
        return [list(range(sum(sizes)))]
    starts = [sum(sizes[:text]) for text in range(len(sizes))]
    orders = [[start + index for index in spread_order(size)] for start, size in zip(starts, sizes, strict=True)]
    rounds, counts, share = [], [0] * len(sizes), FIRST_SHARE
    while counts != sizes:
        ends = [min(size, max(MIN_WINDOWS, -(-size // share))) for size in sizes]
        rounds.append([i for order, a, b in zip(orders, counts, ends, strict=True) for i in sorted(order[a:b])])
        counts, share = ends, max(1, share // 2)
    return [windows for windows in rounds if windows]


def spread_order(size: int) -> list[int]:
    """0 to `size` - 1 in an order of which every beginning is spread evenly: by their bits read backwards."""
    bits = max(1, (size - 1).bit_length())
    return sorted(range(size), key=lambda index: int(f"{index:0{bits}b}"[::-1], 2))


def hopeless(candidate: Tensor, best: Tensor, texts: Tensor, chance: float = CHANCE) -> bool:
    """Whether the candidate cannot plausibly become better than the best so far.

    The objective is the mean over the texts of exp(mean loss). With `d` the mean difference of losses on a text and `s`
    its standard error, the candidate's perplexity there is the best one's times exp(d), and its error that times `s`.
    The sum of the differences over its error has Student's distribution, with the degrees of freedom of Welch (1947).

    Args:
        candidate, best: mean losses [windows] of the same windows.
        texts: LongTensor [windows], which text a window is of.
        chance: that this gives up a candidate as good as the best.
    """
    above, variances, freedom = 0.0, [], []
    for text in texts.unique():
        of_text = texts == text
        differences, level = (candidate - best)[of_text].double(), best[of_text].double().mean()
        ratio = differences.mean().exp()
        error = differences.std() / len(differences) ** 0.5
        above += float(level.exp() * (ratio - 1))
        variances.append(float((level.exp() * ratio * error) ** 2))
        freedom.append(len(differences) - 1)
    total = sum(variances)
    if not math.isfinite(total):
        return False  # it is measured to the end, and then has no objective
    if total == 0:
        return above > 0
    degrees = total**2 / sum(variance**2 / free for variance, free in zip(variances, freedom, strict=True))
    return above > float(student.isf(chance, degrees)) * total**0.5
