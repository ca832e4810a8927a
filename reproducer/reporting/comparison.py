"""The paper's numbers and what was measured, cell by cell, in the paper's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reproducer.paper.catalogue import SEVEN_TASKS, Item, items, load_item, method
from reproducer.paper.catalogue import PaperRow as Printed
from reproducer.paper.claims import paper as the_paper
from reproducer.reporting.measures import heading
from reproducer.reporting.numbers import cut, paper_number, tuning
from reproducer.reporting.rows import CUT, Line, lines
from reproducer.reporting.tables import Table
from reproducer.stages.compared import ComparedRow, PaperCell, PaperComparison, Place
from reproducer.stages.results import Column, Results

PLACE = [*CUT, "label"]


def reproduces(results: Results) -> str:
    """The key of the paper's item that the spec reproduces, such as `table1`; empty for a spec that reproduces none."""
    item = results.spec.get("reproduces")
    return "".join(f"{kind}{number}" for kind, number in item.items()) if isinstance(item, dict) else ""


def reproduced(results: Results) -> list[str]:
    """The keys of all that the spec, or what it includes, reproduces."""
    runs = [results, *(results.of_part(part) for part in results.parts)]
    return [key for run in runs if (key := reproduces(run))]


def compare(results: Results) -> PaperComparison | None:
    """The paper's rows beside ours; None if the spec reproduces no item whose numbers are here.

    A row of ours and one of the paper's are the same when model, method, label, recovery and ratio are (the method
    plays no part where the item says `any_method`); the model is the one that ours stands for. The paper's averages are
    over seven tasks: where ours are over others, they are left out.
    """
    key = reproduces(results)
    if key not in items():
        return None
    item = load_item(key)
    ours = lines(results.rows)
    models = stands_for(results, item)
    pairs = [(line, _partner(line, ours, item, models)) for line in ours]
    matched = [(line, paper) for line, paper in pairs if paper is not None]
    dense = {paper.model: (line, paper) for line, paper in matched if line.method == "dense"}
    labels = {line.recovery: line.recovery_label for line in ours}
    columns = [column for column in results.columns if _is_compared(column, results)]
    return PaperComparison(
        **item.model_dump(include={"item", "caption", "any_method", "slips", "quotes", "generations"}),
        in_kind=any(name != paper for name, paper in models.items()),
        models=models,
        rows=[_compared(line, paper, dense.get(paper.model), columns) for line, paper in matched],
        only_paper=[
            Place(**row.model_dump(include=set(PLACE)), recovery_label=labels.get(row.recovery))
            for row in item.rows
            if not any(row is paper for _, paper in matched)
        ],
    )


def _is_compared(column: Column, results: Results) -> bool:
    if column.key != "average_acc":
        return not column.is_margin
    tasks = {column.key for column in results.columns if column.kind == "accuracy" and column.source}
    return all({*SEVEN_TASKS} == ({*model.averaged} if model.averaged else tasks) for model in results.models)


def stands_for(results: Results, item: Item) -> dict[str, str]:
    """The paper's model by ours, of the models of an item: as the results name them, else in their order.

    A model that stands for one that the paper does not have stands for none of the paper's.
    """
    named = {model.name: model.stands_for or model.name for model in results.models}
    papers = list(dict.fromkeys(row.model for row in item.rows))
    known = the_paper().models
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
        sides = {"paper": paper.metrics.get(column.key), "ours": _in_paper_units(line, column)}
        of_dense = (dense[1].metrics.get(column.key), _in_paper_units(dense[0], column)) if dense else (None, None)
        relative = {
            f"{side}_relative": _relative(value, of, column)
            for (side, value), of in zip(sides.items(), of_dense, strict=True)
        }
        cells[column.key] = PaperCell(**sides, **relative)
    facts: dict[str, Any] = {name: getattr(line, name) for name in [*PLACE, "method", "status"]}
    return ComparedRow(**facts, paper_model=paper.model, paper_label=paper.label, cells=cells)


def _in_paper_units(line: Line, column: Column) -> float | None:
    value = line.mean.get(column.key)
    return value if value is None else value * (100 if column.kind == "accuracy" else 1)


def _relative(value: float | None, dense: float | None, column: Column) -> float | None:
    if value is None or dense is None:
        return None
    if column.kind == "accuracy":
        return value - dense
    return value / dense if dense else None


def paper_table(paper: PaperComparison, columns: Sequence[Column], document: bool) -> Table | None:
    """The paper's rows and ours, one below the other; None without a number in common.

    Of another model than the paper's, whose values say nothing about the paper's, what is relative to the dense row.
    """
    sides = ("paper_relative", "ours_relative") if paper.in_kind else ("paper", "ours")
    rows = [row for row in paper.rows if row.status != "missing" and not (paper.in_kind and row.method == "dense")]
    columns = [
        column
        for column in columns
        if any(getattr(cell, side) is not None for row in rows if (cell := row.cells.get(column.key)) for side in sides)
        and any(row.cells[column.key].paper is not None for row in rows)
    ]
    if not columns or not any(cell.ours is not None for row in rows for cell in row.cells.values()):
        return None
    several = len({row.model for row in rows}) > 1
    head = ["Model"] * several + ["Ratio", "Tuning", "Method"]
    name = f"paper-{paper.item.lower().replace(' ', '')}" if document else "paper"
    table = Table([*head, "", *map(heading, columns)], "l" * (len(head) + 1) + "r", repeated=len(head), name=name)
    for row in rows:
        table.rule()
        place = [*[row.model] * several, cut(row), "" if row.method == "dense" else tuning(row), row.label]
        for side in sides:
            values = [
                paper_number(getattr(row.cells[column.key], side), column.kind, paper.in_kind) for column in columns
            ]
            table.add([*place, side.partition("_")[0], *values])
    return table
