"""A search trial against the matrix products that it cannot avoid: `python -m tests.benchmarks.trial MODEL_FOLDER`.

A trial scores AdaPruner's metric on ten fresh samples of 128 tokens and measures the pruned model on the search texts.
What it cannot avoid: the products of one forward and one backward pass over the samples (weight gradients in the
pruned layers, none below the first of them), and of a forward pass over the texts at the pruned widths. These are timed
as bare `torch.matmul` on tensors of the same shapes and dtype, in turns with whole trials.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch
from tabulate import tabulate

from reproducer.data.pool import calibration_pool
from reproducer.data.text import load_text, windows
from reproducer.methods.adapruner import adapruner
from reproducer.models.architecture import layer_shape
from reproducer.models.load import load_model
from reproducer.models.walk import BATCH_TOKENS
from reproducer.pruning.allocation import Allocation
from reproducer.search.objective import Objective

POINT = {"alpha1": 0.3, "alpha2": 0.9, "coarse_second": 1e6, "fine_second": 1e7, "coarse_scale": 1e-2}


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
    for kind in ("heads", "channels"):
        kept = plan.kept(kind, index) if plan is not None else None
        units = shape.units(kind) if kept is None else len(kept)
        for member in architecture.members(kind):
            cut = units * shape.vectors_per_unit(member)
            yield (cut, shape.hidden) if member.axis == 0 else (shape.hidden, cut)


def attention(products: Products, layer, architecture, plan, index, sequences: int, length: int, times: int) -> None:
    shape = layer_shape(layer, architecture)
    kept = plan.kept("heads", index) if plan is not None else None
    heads = (shape.groups if kept is None else len(kept)) * shape.queries_per_group
    for _ in range(times):
        products.add((sequences * heads, length, shape.head_dim), (sequences * heads, shape.head_dim, length))
        products.add((sequences * heads, length, length), (sequences * heads, length, shape.head_dim))


def bare(objective: Objective, plan, samples: int, dtype: torch.dtype) -> Products:
    """The products of a trial: backward on the samples, forward on the texts."""
    products = Products(dtype)
    walk, first = objective.text_walk, objective.layers[0]
    tokens, length = samples * objective.pool.shape[1], objective.pool.shape[1]
    head = tuple(walk.architecture.head_of(walk.model).weight.shape)
    for index in range(first, len(walk.layers)):
        for out, into in linear_shapes(walk.layers[index], None, index, walk.architecture):
            products.add((tokens, into), (into, out))  # forward
            products.add((tokens, out), (out, into))  # gradient of the input
            if index in objective.layers:
                products.add((out, tokens), (tokens, into))  # gradient of the weight
        attention(products, walk.layers[index], walk.architecture, None, index, samples, length, 3)
    products.add((tokens, head[1]), (head[1], head[0]))
    products.add((tokens, head[0]), (head[0], head[1]))
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
    objective = Objective(model, pool.ids, texts, None, Allocation(ratio=0.2))
    needs = adapruner.make(POINT).needs
    times: dict[str, list[float]] = {"statistics": [], "plan": [], "evaluation": [], "bare products": []}
    for round_ in range(given.rounds + 1):
        samples = pool.draw(10, round_)
        objective._below_pool(samples)  # once a search, not once a trial
        marks = [time.perf_counter()]
        objective.statistics(samples, needs)
        marks.append(time.perf_counter())
        plan = objective.plan(adapruner, POINT, samples)
        marks.append(time.perf_counter())
        objective.value(plan)
        marks.append(time.perf_counter())
        products = bare(objective, plan, 10, dtype)
        if round_ == 0:
            products.run()
            continue  # warm-up
        began = time.perf_counter()
        products.run()
        marks_apart = [after - before for before, after in itertools.pairwise(marks)]
        for name, seconds in zip(times, [*marks_apart, time.perf_counter() - began], strict=True):
            times[name].append(seconds)
    trials = [sum(parts) for parts in zip(times["statistics"], times["plan"], times["evaluation"], strict=True)]
    ratio = statistics.median(t / b for t, b in zip(trials, times["bare products"], strict=True))
    rows = [(name, statistics.median(seconds), min(seconds)) for name, seconds in {**times, "trial": trials}.items()]
    print(tabulate(rows, headers=["", "median s", "least s"], floatfmt=".2f"))
    tokens = sum(len(ids) for ids in texts.values()) * 128
    print(f"\n{given.dtype}, {torch.get_num_threads()} threads, 10x128 samples, {tokens} search tokens")
    print(f"a trial takes {ratio:.2f} times its bare products (median of {given.rounds})")


if __name__ == "__main__":
    main()
