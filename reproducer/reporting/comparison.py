"""The paper's numbers and what was measured, cell by cell, in the paper's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reproducer.paper import SEVEN_TASKS, Item, items, load_item, method
from reproducer.paper import PaperRow as Printed
from reproducer.paper import paper as the_paper
from reproducer.reporting.cost import seen_columns
from reproducer.reporting.rows import CUT, Line, blocks, by_seed, estimate, lines
from reproducer.stages.compared import ComparedRow, Order, PaperCell, PaperComparison, Place
from reproducer.stages.results import Column, Results

PLACE = [*CUT, "label"]


def item_of(results: Results) -> Item | None:
    """The paper's item that the spec reproduces, or None if its numbers are not here.

    Its averages are over the tasks that the average of our model in the place of the paper's is over. Where an item
    prints no single tasks, only the average over all seven is known.
    """
    key = "".join(f"{kind}{number}" for kind, number in reproduces(results).items())
    if key not in items():
        return None
    item = load_item(key)
    tasks = [column.key for column in results.columns if column.kind == "accuracy" and column.source]
    ours = {model.name: model.averaged for model in results.models if model.averaged is not None}
    by_paper = {paper: ours.get(name, tasks) for name, paper in stands_for(results, item).items()}
    rows = [averaged_over(row, by_paper.get(row.model, tasks), len(tasks)) for row in item.rows]
    return item.model_copy(update={"rows": rows})


def reproduces(results: Results) -> dict[str, Any]:
    """`{"table": 1}`; empty for a spec that reproduces nothing."""
    item = results.spec.get("reproduces")
    return item if isinstance(item, dict) else {}


def averaged_over(row: Printed, tasks: Sequence[str], measured: int) -> Printed:
    """The paper's row with its average over `tasks`: those of the `measured` ones that ours is over."""
    if row.metrics.get("average_acc") is None or not measured or set(tasks) == set(SEVEN_TASKS):
        return row
    values = [row.metrics.get(task) for task in tasks]
    known = [value for value in values if value is not None]
    enough = len(known) == len(values) >= min(measured, 2)
    average = round(sum(known) / len(known), 4) if enough else None
    metrics = {**row.metrics, "average_acc": average}
    return row.model_copy(update={"metrics": metrics, "derived": sorted({*row.derived, "average_acc"})})


def compare(results: Results) -> PaperComparison | None:
    """The paper's rows beside ours; None if the spec reproduces no item whose numbers are here.

    A row of ours and one of the paper's are the same when model, method, label, recovery and ratio are (the method
    plays no part where the item says `any_method`); the model is the one that ours stands for.
    """
    item = item_of(results)
    if item is None:
        return None
    ours = lines(results.rows)
    models = stands_for(results, item)
    pairs = [(line, _partner(line, ours, item, models)) for line in ours]
    matched = [(line, paper) for line, paper in pairs if paper is not None]
    dense = {paper.model: (line, paper) for line, paper in matched if line.method == "dense"}
    labels = {line.recovery: line.recovery_label for line in ours}
    columns = [column for column in results.columns if not column.is_margin]
    rows = [_compared(line, paper, dense.get(paper.model), columns) for line, paper in matched]
    return PaperComparison(
        **item.model_dump(include={"item", "caption", "any_method", "slips", "quotes", "generations"}),
        in_kind=any(name != paper for name, paper in models.items()),
        models=models,
        rows=rows,
        only_paper=[
            Place(**row.model_dump(include=set(PLACE)), recovery_label=labels.get(row.recovery))
            for row in item.rows
            if not any(row is paper for _, paper in matched)
        ],
        only_ours=[
            Place(**{name: getattr(line, name) for name in PLACE})
            for line, paper in pairs
            if paper is None and line.measured
        ],
        orders=_orders(rows),
    )


def stands_for(results: Results, item: Item) -> dict[str, str]:
    """The paper's model by ours, of the models of an item: as the results name them, else in their order.

    A model that stands for one that the paper does not have stands for none of the paper's.
    """
    named = {model.name: model.stands_for or model.name for model in results.models}
    papers = list(dict.fromkeys(row.model for row in item.rows))
    known = the_paper().conditions.models
    elsewhere = {model.name for model in results.models if model.stands_for and model.stands_for not in known}
    names = [name for name in dict.fromkeys(row.model for row in results.rows) if name not in elsewhere]
    models = {name: named.get(name, name) for name in names if named.get(name, name) in papers}
    left = [paper for paper in papers if paper not in models.values()]
    return models | dict(zip((name for name in names if name not in models), left, strict=False))


def stands_for_any(results: Results) -> dict[str, str]:
    """The paper's model by ours, of all models that its tables have."""
    rows = [row for key in items() for row in load_item(key).rows]
    return stands_for(results, Item(item="", caption="", columns=[], rows=rows))


def plain(label: str) -> str:
    """A label without case, blanks and the name of the paper's method: `w/o D` after that name is `w/o D`."""
    return "".join(label.lower().replace(method().label.lower(), "").split())


def is_row(line: Line, paper: Printed, models: Mapping[str, str], any_method: bool = False) -> bool:
    """Whether a line has the model, method, recovery and cut of a row of the paper, `models` being the paper's by ours.

    `any_method`: a pruned row's numbers do not depend on which method pruned it.
    """
    methods = {paper.method, line.method}
    if paper.model != models.get(line.model) or not (len(methods) == 1 or (any_method and "dense" not in methods)):
        return False
    if line.method == "dense":
        return True
    by_ratio = line.ratio is not None and abs(line.ratio - paper.ratio) < 1e-9
    by_layer = line.structure_ratio is not None and line.structure_ratio == paper.structure_ratio
    return paper.recovery == line.recovery and (by_ratio or by_layer)


def _partner(line: Line, ours: Sequence[Line], item: Item, models: Mapping[str, str]) -> Printed | None:
    possible = [paper for paper in item.rows if is_row(line, paper, models, item.any_method)]
    named = [paper for paper in possible if plain(paper.label) == plain(line.label)]
    if named:
        return named[0]
    alike = [other for other in ours if all(getattr(other, name) == getattr(line, name) for name in ["method", *CUT])]
    return possible[0] if (len(alike) == 1 or item.any_method) and len(possible) == 1 else None


def _compared(line: Line, paper: Printed, dense: tuple[Line, Printed] | None, columns: Sequence[Column]) -> ComparedRow:
    cells = {}
    for column in columns:
        theirs, ours = paper.metrics.get(column.key), _in_paper_units(line, column)
        their_dense = dense[1].metrics.get(column.key) if dense else None
        our_dense = _in_paper_units(dense[0], column) if dense else None
        relative = {"paper_from_dense": _minus(theirs, their_dense), "ours_from_dense": _minus(ours, our_dense)}
        if column.kind != "accuracy":
            relative |= {"paper_over_dense": _over(theirs, their_dense), "ours_over_dense": _over(ours, our_dense)}
        cells[column.key] = PaperCell(
            paper=theirs,
            ours=ours,
            difference=_minus(ours, theirs),
            difference_from_dense=_minus(relative["ours_from_dense"], relative["paper_from_dense"]),
            **relative,
        )
    return ComparedRow(
        **{name: getattr(line, name) for name in [*PLACE, "method", "status"]},
        paper_model=paper.model,
        paper_label=paper.label,
        stated=paper.stated,
        derived=paper.derived,
        cells=cells,
    )


def _in_paper_units(line: Line, column: Column) -> float | None:
    value = line.mean.get(column.key)
    return value if value is None else value * (100 if column.kind == "accuracy" else 1)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _over(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _orders(rows: Sequence[ComparedRow]) -> list[Order]:
    from scipy.stats import kendalltau

    orders = []
    for block in blocks(row for row in rows if row.method != "dense"):
        for key in block[0].cells:
            cells = [row.cells[key] for row in block]
            both = [(cell.paper, cell.ours) for cell in cells if cell.paper is not None and cell.ours is not None]
            if len(both) < 3 or any(len(set(side)) < 2 for side in zip(*both, strict=True)):
                continue  # no order to compare
            tau = float(kendalltau(*zip(*both, strict=True)).statistic)
            orders.append(
                Order(**{name: getattr(block[0], name) for name in CUT}, metric=key, methods=len(both), tau=tau)
            )
    return orders


@dataclass(frozen=True)
class Standing:
    """The mean perplexity of a line of the paper's own method, and of the best baseline of its block (no control).

    Attributes:
        value, other_value: over the seeds that both have finished, and the texts that all of these measured.
        interval: by how many per cent of the other's value the line's is above it, paired by seed; None of one seed.
    """

    line: Line
    other: Line
    value: float
    other_value: float
    seeds: list[int]
    columns: list[Column]
    interval: tuple[float, float] | None


def standings(results: Results) -> list[Standing]:
    columns = seen_columns(results)
    compared = []
    for block in blocks(lines(results.rows)):
        block = [line for line in block if line.rows[0].control is None]
        own = [line for line in block if line.method == method().name]
        others = [line for line in block if line.method not in ("dense", method().name)]
        for line in own:
            pairs = [pair for other in others if (pair := _standing(line, other, columns)) is not None]
            if pairs:
                compared.append(min(pairs, key=lambda pair: pair.other_value))
    return compared


def _standing(line: Line, other: Line, columns: list[Column]) -> Standing | None:
    keys = [column.key for column in columns]
    ours, theirs = (by_seed(side, keys) if side.done else {} for side in (line, other))
    seeds = sorted(ours.keys() & theirs.keys())
    means = [estimate([side[seed] for seed in seeds]) for side in (ours, theirs)]
    gap = estimate([ours[seed] - theirs[seed] for seed in seeds])
    if gap is None or means[0] is None or means[1] is None:
        return None
    scale, interval = 100 / means[1].mean, None
    if gap.half is not None:
        interval = (scale * (gap.mean - gap.half), scale * (gap.mean + gap.half))
    return Standing(line, other, means[0].mean, means[1].mean, seeds, columns, interval)
