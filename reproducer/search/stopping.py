"""When a candidate is given up on a first slice of the search texts.

A candidate and the best so far are measured on the same windows, so what counts is the difference window by window:
windows differ far more from each other than a window does under two similar models. A candidate is hopeless if, going
by the slice, its objective is above the best one's by more than three standard errors of the difference.
"""

from __future__ import annotations

from torch import Tensor

SHARE = 4  # one window in four
LEAST = 4  # windows of a text, below which their spread says nothing
ERRORS = 3.0  # standard errors; a candidate as good as the best is given up once in several hundred times


def first_slice(sizes: list[int]) -> list[int]:
    """Indices of the windows to measure first, evenly spread over each text; all where a text is too short for it.

    Args:
        sizes: windows of each text; the windows of all texts are numbered in a row.
    """
    if min(sizes) < 2 * LEAST:
        return list(range(sum(sizes)))
    chosen, start = [], 0
    for size in sizes:
        count = max(LEAST, -(-size // SHARE))
        chosen += [start + (2 * place + 1) * size // (2 * count) for place in range(count)]
        start += size
    return chosen


def hopeless(candidate: Tensor, best: Tensor, texts: Tensor) -> bool:
    """Whether the candidate cannot plausibly become better than the best so far.

    The objective is the mean over the texts of exp(mean loss). With `d` the mean difference of losses on a text and `s`
    its standard error, the candidate's perplexity there is the best one's times exp(d), and its error that times `s`.

    Args:
        candidate, best: mean losses [windows] of the same windows.
        texts: LongTensor [windows], which text a window is of.
    """
    above, variance = 0.0, 0.0
    for text in texts.unique():
        of_text = texts == text
        differences, level = (candidate - best)[of_text].double(), best[of_text].double().mean()
        ratio = differences.mean().exp()
        error = differences.std() / len(differences) ** 0.5
        above += float(level.exp() * (ratio - 1))
        variance += float((level.exp() * ratio * error) ** 2)
    return above > ERRORS * variance**0.5
