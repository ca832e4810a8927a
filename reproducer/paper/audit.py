"""The paper's own arithmetic: what it derives from its tables, recomputed with the numbers as it prints them.

An average has to be what its tasks' mean, of numbers that were rounded themselves, can round to. What is derived from
averages is derived from those that the paper prints, so that a wrong one counts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from reproducer.paper.catalogue import SEVEN_TASKS, PaperRow, Slip, items, load_item
from reproducer.paper.claims import Derived, RowRef, paper

ROUNDED = 0.01  # points that an average may be off by rounding alone


@dataclass(frozen=True)
class Check:
    """A number of the paper and what its tables give.

    Attributes:
        where: where it is printed.
        what: which number it is.
        printed: as it stands there. right: what comes out, with as many decimals.
        arithmetic: how.
        holds: the two agree.
    """

    where: str
    what: str
    printed: str
    right: str
    arithmetic: str
    holds: bool


def checks() -> list[Check]:
    """All numbers that can be recomputed: the averages of the tables, then those of the text, in the paper's order."""
    averages = [
        _check(load_item(ref.item).item, Derived.model_validate({"value": printed, "mean": [ref]}))
        for ref, printed in _printed_in_tables()
    ]
    return averages + [_check(claim.where, number) for claim in paper().claims for number in claim.printed]


def slips() -> list[Check]:
    """The numbers that do not add up, each once: an average that is wrong in a table is no second slip in the text."""
    wrong = [check for check in checks() if not check.holds]
    return list({check.arithmetic: check for check in reversed(wrong)}.values())[::-1]


def other_slips() -> list[tuple[str, Slip]]:
    """What else is recorded, with its item: wrong words and headings, and what is announced and not there."""
    every = [(load_item(key).item, slip) for key in items() for slip in load_item(key).slips]
    return [(item, slip) for item, slip in every if "label" not in slip.where]


def _printed_in_tables() -> Iterator[tuple[RowRef, float]]:
    for key in items():
        for row in load_item(key).rows if key.startswith("table") else []:
            printed = row.metrics.get("average_acc")
            if printed is not None and "average_acc" not in row.derived:
                yield RowRef(key, row.recovery, row.label), printed


def _check(where: str, number: Derived) -> Check:
    printed = f"{number.value:.2f}" if number.way in ("mean", "cell") else f"{number.value:g}"
    value, arithmetic = _computed(number)
    right = f"{value:.{len(printed.partition('.')[2])}f}"
    holds = right == printed
    if number.way == "mean":  # half of the last digit that the mean is rounded by, and as much that the tasks were
        holds = abs(value - number.value) < ROUNDED
    return Check(where, _what(number), printed, right, arithmetic, holds)


def _computed(number: Derived) -> tuple[float, str]:
    """The number, and how it comes out."""
    rows = number.rows
    if number.way == "mean":
        values = [_cell(rows[0], task) for task in SEVEN_TASKS]
        mean = _mean(rows[0])
        return mean, f"({' + '.join(f'{value:.2f}' for value in values)}) / {len(values)} = {mean:.3f}"
    if number.way == "tasks":
        pairs = {task.removesuffix("_acc"): (_cell(rows[0], task), _cell(rows[1], task)) for task in SEVEN_TASKS}
        lost = ", ".join(f"{task}: {a} against {b}" for task, (a, b) in pairs.items() if a <= b)
        above = sum(a > b for a, b in pairs.values())
        return above, f"above on {above} of {len(pairs)}" + (f" (not on {lost})" if lost else "")
    values = [_printed_average(row) if number.metric == "average_acc" else _cell(row, number.metric) for row in rows]
    if number.way == "cell":
        return values[0], f"the appendix has {values[0]:.2f}"
    first, second, *_ = values
    value, formula = {
        "difference": (first - second, "{} − {}"),
        "shares": (100 * (first - second) / values[-1], "100 · ({} − {}) / {}"),
        "quotient": (first / second, "{} / {}"),
        "share": (100 * first / second, "100 · {} / {}"),
        "drop": (100 - 100 * first / second, "100 · (1 − {} / {})"),
    }[number.way]
    return value, f"{formula.format(*(f'{known:.2f}' for known in values))} = {value:.2f}"


def _what(number: Derived) -> str:
    names = [row.label for row in number.rows]
    of = "average accuracy" if number.metric == "average_acc" else number.metric.replace("_", " ")
    joined = {"difference": "minus", "shares": "minus", "share": "as per cent of", "drop": "below", "quotient": "over"}
    if number.way == "tasks":
        return f"tasks on which {names[0]} is above {names[1]}"
    if number.way == "cell":
        return f"{names[0]}, {number.rows[0].ratio:.0%}, recovery {number.rows[0].recovery}: {of}"
    return f"{f' {joined.get(number.way)} '.join(names[:2])}: {of}"


@cache
def _printed_averages() -> dict[tuple[float, ...], float]:
    """By a row's accuracies the average that a table or the text prints for them."""
    printed = [(ref.row(), value) for ref, value in _printed_in_tables()]
    printed += [
        (number.rows[0], number.value) for claim in paper().claims for number in claim.printed if number.way == "mean"
    ]
    return {tuple(_cell(row, task) for task in SEVEN_TASKS): value for row, value in printed}


def _printed_average(row: PaperRow) -> float:
    return _printed_averages().get(tuple(_cell(row, task) for task in SEVEN_TASKS), round(_mean(row), 2))


def _mean(row: PaperRow) -> float:
    return sum(_cell(row, task) for task in SEVEN_TASKS) / len(SEVEN_TASKS)


def _cell(row: PaperRow, metric: str) -> float:
    value = row.metrics[metric]
    if value is None:
        raise ValueError(f"{row.label} has no {metric}")
    return value
