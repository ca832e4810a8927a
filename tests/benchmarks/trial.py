"""A search trial against the matrix products that it cannot avoid: `python -m tests.benchmarks.trial MODEL_FOLDER`.

A trial of the paper's mode scores AdaPruner's metric on ten fresh samples of 128 tokens and measures the pruned model
on the search texts. In the default mode a passage's statistics are taken once a search, so that a trial has the second
part alone.
What it cannot avoid: the products of one forward and one backward pass over the samples (weight gradients in the
pruned layers, none below the first of them), and of a forward pass over the texts at the pruned widths. These are timed
as bare `torch.matmul` on tensors of the same shapes and dtype, in turns with whole trials.

Second-order scores need the weight gradients of each sample alone: as many products as samples in place of one over all
tokens, of the same operations but fewer of them at once. They are timed too, as what such a trial really multiplies.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from tabulate import tabulate

from reproducer.data.pool import calibration_pool
from reproducer.data.text import load_text, windows
from reproducer.methods.adapruner import adapruner
from reproducer.models.architecture import layer_shape
from reproducer.models.load import load_model
from reproducer.models.walk import BATCH_TOKENS
from reproducer.pruning.cut import Cut
from reproducer.search.objective import Objective

POINT = {"alpha1": 0.3, "alpha2": 0.9, "coarse_second": 1e6, "fine_second": 1e7, "coarse_scale": 1e-2}
DEFAULT = POINT | {"fine_second": "only"}


class Products:
    """Matrix products of given shapes on random tensors, made once and reused."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.calls, self.tensors = dtype, [], {}

    def add(self, *shapes: tuple[int, ...]) -> None:
        left, right = (self.tensors.setdefault((shape, side), torch.randn(shape, dtype=self.dtype))
                       for side, shape in enumerate(shapes))  # fmt: skip
        self.calls.append((left, right))

    def run(self) -> None:
        for left, right in self.calls:
            torch.matmul(left, right)


def linear_shapes(layer, plan, index, architecture):
    """(out, in) of a layer's linear modules at the plan's widths."""
    shape = layer_shape(layer, architecture)
    counts = shape.counts if plan is None else plan.counts(index)
    for kind in architecture.kinds:
        for member in kind.members:
            cut = counts[kind.name] * shape.vectors_per_unit(member)
            yield (cut, shape.hidden) if member.axis == 0 else (shape.hidden, cut)


def attention(products: Products, layer, architecture, plan, index, sequences: int, length: int, times: int) -> None:
    shape = layer_shape(layer, architecture)
    heads = (shape.counts if plan is None else plan.counts(index))["heads"] * shape.queries_per_group
    for _ in range(times):
        products.add((sequences * heads, length, shape.head_dim), (sequences * heads, shape.head_dim, length))
        products.add((sequences * heads, length, length), (sequences * heads, length, shape.head_dim))


def of_statistics(objective: Objective, samples: int, dtype: torch.dtype, apart: bool = False) -> Products:
    """The products of a forward and a backward pass over the samples; `apart`: weight gradients of each alone."""
    products = Products(dtype)
    walk, first = objective.text_walk, objective.layers[0]
    tokens, length = samples * objective.pool.shape[1], objective.pool.shape[1]
    head = tuple(walk.architecture.head_of(walk.model).weight.shape)
    for index in range(first, len(walk.layers)):
        for out, into in linear_shapes(walk.layers[index], None, index, walk.architecture):
            products.add((tokens, into), (into, out))  # forward
            products.add((tokens, out), (out, into))  # gradient of the input
            if index in objective.layers:
                for _ in range(samples if apart else 1):
                    of = length if apart else tokens
                    products.add((out, of), (of, into))  # gradient of the weight
        attention(products, walk.layers[index], walk.architecture, None, index, samples, length, 3)
    products.add((tokens, head[1]), (head[1], head[0]))
    products.add((tokens, head[0]), (head[0], head[1]))
    return products


def of_evaluation(objective: Objective, plan, dtype: torch.dtype) -> Products:
    """The products of a forward pass over the texts at the pruned widths."""
    products = Products(dtype)
    walk, first = objective.text_walk, objective.layers[0]
    head = tuple(walk.architecture.head_of(walk.model).weight.shape)
    count, length = objective._windows.shape
    batch = max(1, BATCH_TOKENS // length)
    for start in range(0, count, batch):
        sequences = min(batch, count - start)
        for index in range(first, len(walk.layers)):
            for out, into in linear_shapes(walk.layers[index], plan, index, walk.architecture):
                products.add((sequences * length, into), (into, out))
            attention(products, walk.layers[index], walk.architecture, plan, index, sequences, length, 1)
        products.add((sequences * length, head[1]), (head[1], head[0]))
    return products


def seconds(work: Callable, *arguments) -> float:
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a folder as `save_pretrained` writes it")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--windows", type=int, default=16, help="search windows a text")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    dtype = getattr(torch, given.dtype)
    model, tokenizer = load_model(given.model, given.dtype)
    pool = calibration_pool(load_text("python-topics", "calibration"), tokenizer, 128)
    names = ("python-topics", "python-docstrings")
    texts = {name: windows(load_text(name, "search"), tokenizer, 128, given.windows) for name in names}
    objective, known = (Objective(model, pool.ids, texts, None, Cut(ratio=0.2)) for _ in range(2))
    needs, additive = adapruner.make(POINT).needs, adapruner.make(DEFAULT).needs
    known.expect(additive)
    rounds: list[dict[str, float]] = []
    for round_ in range(given.rounds + 1):  # the first is the warm-up
        samples = pool.draw(10, round_)
        objective._below_pool(samples)  # once a search, not once a trial
        took = {
            "statistics": seconds(objective.statistics, samples, needs),
            "plan": seconds(objective.plan, adapruner, POINT, samples),
        }
        plan = objective.plan(adapruner, POINT, samples)
        took["evaluation"] = seconds(objective.value, plan)
        took["products of statistics"] = seconds(of_statistics(objective, len(samples), dtype).run)
        took["products of statistics, each sample alone"] = seconds(
            of_statistics(objective, len(samples), dtype, apart=True).run
        )
        took["products of evaluation"] = seconds(of_evaluation(objective, plan, dtype).run)
        known.statistics(samples, additive)  # passage by passage, once a search
        took["plan, passages known"] = seconds(known.plan, adapruner, DEFAULT, samples[::-1])  # another set
        if round_:
            rounds.append(took)
    rows = [(name, *(of([took[name] for took in rounds]) for of in (statistics.median, min))) for name in rounds[0]]
    print(tabulate(rows, headers=["", "median s", "least s"], floatfmt=".2f"))
    of_one, of_each = (
        statistics.median(
            (took["statistics"] + took["plan"] + took["evaluation"]) / (took[products] + took["products of evaluation"])
            for took in rounds
        )
        for products in ("products of statistics", "products of statistics, each sample alone")
    )
    default = statistics.median(
        (took["plan, passages known"] + took["evaluation"]) / took["products of evaluation"] for took in rounds
    )
    tokens = sum(len(ids) for ids in texts.values()) * 128
    print(f"\n{given.dtype}, {torch.get_num_threads()} threads, 10x128 samples, {tokens} search tokens")
    print(f"a trial takes {of_one:.2f} times its bare products (median of {given.rounds})")
    print(f"and {of_each:.2f} times those with the weight gradients of each sample alone, as its scores need them")
    print(f"one whose passages are known, as in the default mode, takes {default:.2f} times its own, the evaluation's")


if __name__ == "__main__":
    main()
