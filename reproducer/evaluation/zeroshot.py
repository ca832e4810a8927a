"""Tasks through lm-eval: its task definitions, its scoring; only the rows come from elsewhere."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

from lm_eval.api.metrics import mean
from lm_eval.evaluator import evaluate

from reproducer.data.tasks import MARGIN, Task
from reproducer.errors import UserError
from reproducer.evaluation.harness import BudgetedLM, TaskOnRows, alone
from reproducer.evaluation.measured import Item, TaskResult
from reproducer.models.loss import SCORED_TOKENS
from reproducer.models.walk import frozen


def zeroshot(
    model,
    tokenizer,
    task: Task,
    limit: int | None = None,
    batch_tokens: int = SCORED_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> TaskResult:
    """Scores of a causal language model on a task without examples in the prompt.

    Prompts, choices, metrics and generated answers are lm-eval's own; likelihoods are computed as its `HFLM` does. In
    bfloat16 an item whose best choices nearly tie can fall either way with the shape of its batch, there as here;
    `batch_tokens=1` makes the batches of one sequence that lm-eval has by default, bit for bit.

    Args:
        model: a transformers causal language model, pruned or not; left in the mode it was in.
        task: what `reproducer.data.tasks.resolve_task` returns.
        limit: the first so many items; None, or more than there are, for all.
        batch_tokens: tokens of a forward pass, padding included. Logits exist at once of those that predict answers.
        progress: called with (requests answered, requests in all).

    Raises:
        UserError: data that cannot be found or read or does not suit the task, what `BudgetedLM` refuses, and a
            score that is not finite.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; a task needs at least one item", "leave it out for all items")
    rows = task.rows()
    with frozen(model), alone(model.device):
        lm_task = TaskOnRows(task, rows, limit)
        lm = BudgetedLM(model, tokenizer, batch_tokens, progress)
        try:
            report = evaluate(lm, {"tasks": {task.name: lm_task}}, bootstrap_iters=0)
        except OverflowError:  # exp of a hopeless model's loss
            raise UserError(f"a score of task {task.name} is too large for a number") from None
    samples = report["samples"][task.name]
    several = len({sample["filter"] for sample in samples}) > 1
    scores = {}
    for key, value in report["results"][task.name].items():
        metric, comma, _ = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            scores[key if several else metric] = float(value)
    if task.metric not in scores or not math.isfinite(scores[task.metric]):
        problem = scores.get(task.metric, "missing from lm-eval's results")
        raise UserError(f"task {task.name}: {task.metric} is {problem}", f"its scores: {', '.join(scores)}")
    items = _item_scores(lm_task, samples, several)
    majority = _add_margins(lm_task, task.metric, samples, items, scores) if task.choices else None
    return TaskResult(
        task=task.name,
        shown=task.metric,
        scores={name: value for name, value in scores.items() if math.isfinite(value)},
        stderr=_standard_errors(list(items.values())),
        higher_is_better={name: bool(lm_task.higher_is_better().get(name.partition(",")[0], True)) for name in scores},
        items=[Item(id=number, scores=dict(sorted(scores.items()))) for number, scores in items.items()],
        majority=majority,
    )


def _item_scores(lm_task: TaskOnRows, samples: list[dict[str, Any]], several: bool) -> dict[int, dict[str, float]]:
    """Each item's scores of which the task's are means, by the item's number; `several`: filters, each with scores."""
    averaged = {name for name, aggregation in lm_task.aggregation().items() if aggregation is mean}
    items: dict[int, dict[str, float]] = {}
    for sample in samples:
        item = items.setdefault(sample["doc_id"], {})
        for metric in averaged & set(sample["metrics"]):
            item[f"{metric},{sample['filter']}" if several else metric] = float(sample[metric])
    return items


def _add_margins(
    lm_task: TaskOnRows,
    metric: str,
    samples: list[dict[str, Any]],
    items: dict[int, dict[str, float]],
    scores: dict[str, float],
) -> float:
    """Add margins to the scores of items and task; returns the accuracy of always giving the likeliest index."""
    by_item = {sample["doc_id"]: sample for sample in samples}  # of several filters any
    for number, sample in by_item.items():
        likelihoods = [likelihood for likelihood, _ in sample["filtered_resps"]]
        margin = lm_task.margin(sample["doc"], likelihoods, metric.partition(",")[0])
        if margin is not None:
            items[number][MARGIN] = margin
    if margins := [item[MARGIN] for item in items.values() if MARGIN in item]:
        scores[MARGIN] = math.fsum(margins) / len(margins)
    right = Counter(index for sample in by_item.values() for index in lm_task.right(sample["doc"]))
    return max(right.values(), default=0) / len(by_item)


def _standard_errors(items: list[dict[str, float]]) -> dict[str, float]:
    """Of the means over items, as lm-eval gives them."""
    columns = {name: [item[name] for item in items if name in item] for name in sorted(set().union(*items))}
    return {
        name: statistics.stdev(values) / math.sqrt(len(values)) for name, values in columns.items() if len(values) > 1
    }
