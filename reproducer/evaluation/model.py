"""Perplexities and scores of a model that is in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from reproducer.data.tasks import resolve_task
from reproducer.data.text import load_text, text_source
from reproducer.data.text import windows as windows_of

Progress = Callable[[float, float, str], None]


def evaluate(
    model: Any,
    tokenizer: Any,
    *,
    perplexity: Sequence[str] = (),
    tasks: Sequence[str] = (),
    seq_len: int = 128,
    windows: int | None = None,
    limit: int | None = None,
    progress: Progress = lambda done, total, text: None,
) -> dict[str, float]:
    """Measure a causal language model, pruned or not, as a spec's `evaluate` does.

    Args:
        model: of transformers; left in the mode it was in.
        tokenizer: the model's.
        perplexity: texts: names of the catalogue (`python-topics`), data sets of the hub, or files.
        tasks: names that lm-eval knows, or `quiz`.
        seq_len, windows: tokens of a window of text, and how many are taken; None: all.
        limit: the first so many items of each task; None: all.
        progress: called with what is done, what there is in all, and the name of what is measured.

    Returns:
        The perplexity of each text and the score of each task (accuracies are fractions of 1), by the name given.

    Raises:
        UserError: an unknown name, data that cannot be read, or a likelihood that is not finite.
    """
    from reproducer.evaluation.perplexity import perplexity as measure

    for name in perplexity:
        text_source(name, "report")  # all names before minutes are spent on the first
    known = {name: resolve_task(name) for name in tasks}
    results: dict[str, float] = {}
    for name in perplexity:
        ids = windows_of(load_text(name, "report"), tokenizer, seq_len, windows)
        results[name] = measure(model, ids, progress=partial(_named, progress, name)).value
    if known:
        from reproducer.evaluation.zeroshot import zeroshot
    for name, task in known.items():
        result = zeroshot(model, tokenizer, task, limit, progress=partial(_named, progress, name))
        results[name] = result.scores[result.shown]
    return results


def _named(progress: Progress, name: str, done: float, total: float) -> None:
    progress(done, total, name)
