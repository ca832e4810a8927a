"""Our measures on SmolLM2-135M in bfloat16 and real data, beside plain computations of the same.

Some minutes on one core, most of them in lm-eval. Rounding: bfloat16 keeps 8 bits, so that a kernel which adds in
another order for another shape of batch moves a likelihood by far more than float32 would. Where two sides must
agree in every item, both take one sequence at a time.
"""

import gzip
import json
import math
import os
from pathlib import Path

import pytest
import torch

from reproducer import prune
from reproducer.data.tasks import TASKS
from reproducer.data.text import load_text, windows
from reproducer.evaluation.perplexity import perplexity
from reproducer.evaluation.zeroshot import zeroshot
from tests.evaluation.plain_lm_eval import assert_same, plain_lm_eval
from tests.helpers import decoder_layers, widths

pytestmark = [pytest.mark.slow, pytest.mark.mirror]
LENGTH, WINDOWS, ITEMS = 128, 16, 16
PUBLISHED = sorted(set(TASKS) - {"quiz"})


def mirrored(stem: str) -> list[dict]:
    path = Path(os.environ["REPRODUCER_MIRROR"], f"{stem}.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def task_rows(task: str) -> list[dict]:
    source = TASKS[task].source
    return mirrored(f"{source.id}/{source.configuration}/{source.split}")


@pytest.fixture(scope="module")
def pruned(smollm2):
    """A fifth of the parameters gone, from every layer another number of heads and channels."""
    model, _ = smollm2
    smaller = prune(model, "magnitude", ratio=0.20, scope="global").apply(model)
    layers = [widths(smaller, index) for index in range(len(decoder_layers(smaller)))]
    assert len({groups for groups, _, _ in layers}) > 1 and len({channels for _, _, channels in layers}) > 10
    return smaller


@pytest.mark.parametrize(
    ("name", "stem", "field"),
    [
        ("wikitext2", "Salesforce/wikitext/wikitext-2-raw-v1/test", "text"),
        ("ptb", "ptb-text-only/ptb_text_only/penn_treebank/validation", "sentence"),
    ],
)
def test_dense_perplexity_is_that_of_transformers_own_loss(smollm2, name, stem, field):
    """LLM-Pruner's protocol written out: rows joined by two newlines, tokenised once, windows, the mean loss."""
    model, tokenizer = smollm2
    text = "\n\n".join(row[field] for row in mirrored(stem))
    ids = tokenizer(text, verbose=False)["input_ids"]
    plain = torch.tensor(ids[: WINDOWS * LENGTH]).view(WINDOWS, LENGTH)
    with torch.no_grad():
        losses = [model(input_ids=window[None], labels=window[None]).loss.item() for window in plain]
    expected = math.exp(sum(losses) / WINDOWS)

    ours = windows(load_text(name, "report"), tokenizer, LENGTH, WINDOWS)
    assert ours.equal(plain)
    alone = perplexity(model, ours, batch_tokens=LENGTH)
    # The same kernels on the same shapes, but for the head's rows: what is left is the order of a float32 mean.
    assert alone.nll_per_window == pytest.approx(losses, rel=1e-3)
    assert alone.value == pytest.approx(expected, rel=1e-3)
    # In one batch other kernels may run. A logit of 16 to 32 is a multiple of 1/8 in bfloat16: rounded otherwise it
    # moves a token's loss by 1/16 or so, either way, and the mean of 2,032 such losses by 1/16 / sqrt(2032) = 0.14 %
    # (one standard deviation), which is also the relative move of its exponential.
    together = perplexity(model, ours)
    assert together.tokens == WINDOWS * (LENGTH - 1)
    assert together.value == pytest.approx(expected, rel=5e-3)
    print(f"{name}: {expected:.4f} by transformers, {alone.value:.4f} a window at a time, {together.value:.4f} batched")


@pytest.mark.parametrize("task", PUBLISHED)
def test_items_of_every_task_are_those_of_lm_eval(smollm2, task, monkeypatch):
    model, tokenizer = smollm2
    result = zeroshot(model, tokenizer, TASKS[task], limit=ITEMS, batch_tokens=1)
    assert len(result.items) == ITEMS
    assert_same(result, *plain_lm_eval(monkeypatch, model, tokenizer, TASKS[task], task_rows(task)[: 2 * ITEMS], ITEMS))
    print(task, result.scores)


@pytest.mark.parametrize("task", ["arc_easy", "winogrande"])
def test_items_of_a_pruned_model_are_those_of_lm_eval(smollm2, pruned, task, monkeypatch):
    """The object itself, its layers of unequal widths: nothing is written to disk."""
    _, tokenizer = smollm2
    result = zeroshot(pruned, tokenizer, TASKS[task], limit=ITEMS, batch_tokens=1)
    assert_same(result, *plain_lm_eval(monkeypatch, pruned, tokenizer, TASKS[task], task_rows(task)[:ITEMS]))
    assert 0 < sum(item.scores["acc"] for item in result.items) < ITEMS
    print(f"{task}, pruned:", result.scores)
