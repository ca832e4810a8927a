"""Zero-shot accuracy through lm-eval: its task definitions, its scoring; only the rows come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from lm_eval.evaluator import evaluate

from reproducer.data.tasks import load_task_rows, resolve_task
from reproducer.errors import UserError
from reproducer.evaluation.harness import BudgetedLM, quiet, task_config, task_on_rows
from reproducer.models.loss import SCORED_TOKENS
from reproducer.models.walk import frozen


@dataclass(frozen=True)
class TaskResult:
    """What `zeroshot` measured.

    Attributes:
        task: the task's name in specs.
        metric: `acc` or `acc_norm`, the one that the task's column shows.
        acc: share of items whose answer is the likeliest choice.
        acc_norm: the same with each likelihood divided by its choice's length in characters; None where the
            task's definition has no such metric.
        items: one dict an item in the order of the data: `id` (its row, from 0), `acc` and `acc_norm` (0, 1, None).
    """

    task: str
    metric: str
    acc: float
    acc_norm: float | None
    items: list[dict[str, int | None]]

    @property
    def value(self) -> float:
        """The accuracy that the task's column shows."""
        return self.acc if self.metric == "acc" or self.acc_norm is None else self.acc_norm


def zeroshot(
    model,
    tokenizer,
    task: str,
    limit: int | None = None,
    batch_tokens: int = SCORED_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> TaskResult:
    """Accuracy of a causal language model on a multiple-choice task without examples in the prompt.

    Prompts, choices and metrics are those of lm-eval's own task definition, and the likelihoods are those of its
    `HFLM`; items come out as lm-eval itself scores them. In bfloat16 an item whose best choices nearly tie can
    fall either way with the shape of its batch, there as here; `batch_tokens=1` makes the batches of one sequence
    that lm-eval has by default, bit for bit.

    Args:
        model: a transformers causal language model, pruned or not; left in the mode it was in.
        tokenizer: the model's tokenizer.
        task: a name in `reproducer.data.tasks.TASKS`.
        limit: the first so many items; None for all.
        batch_tokens: tokens of a forward pass, padding included. Logits of so many tokens exist at once.
        progress: called with (likelihoods known, likelihoods in all).

    Raises:
        UserError: an unknown task, data that cannot be found or read, and what `BudgetedLM` refuses.
    """
    entry = resolve_task(task)
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; a task needs at least one item", "leave it out for all items")
    rows = [dict(row) for row in islice(load_task_rows(task).rows, limit)]
    with frozen(model), quiet():
        lm_task = task_on_rows(task_config(entry.task), rows)
        lm = BudgetedLM(model, tokenizer, batch_tokens, progress)
        report = evaluate(lm, {"tasks": {task: lm_task}}, bootstrap_iters=0)
    samples, means = report["samples"][task], report["results"][task]
    if len(samples) != len(rows):
        raise RuntimeError(f"lm-eval scored {len(samples)} items of {task} where {len(rows)} were given")
    return TaskResult(
        task=task,
        metric=entry.metric,
        acc=means["acc,none"],
        acc_norm=means.get("acc_norm,none"),
        items=[
            {"id": sample["doc_id"], **{name: _whole(sample.get(name)) for name in ("acc", "acc_norm")}}
            for sample in samples
        ],
    )


def _whole(score: float | None) -> int | None:
    return None if score is None else int(score)
