"""What the paper claims, by which rule a run judges it, and under which conditions the paper ran: the files typed."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NamedTuple, get_args

from pydantic import Field, model_validator

from reproducer.paper.catalogue import Data, PaperRow, load_item, read

Rule = Literal["better", "most", "retains", "varies", "sensitivity", "converges", "finds", "none"]
"""How a claim is judged, always by its least favourable comparison:

better: each row is better than each that it is held against, on each measure: a difference of means above 0.
most: it is so on more than half of the tasks.
retains: the row's measure is `at_least` so many per cent of the dense model's.
varies: the standard deviation over seeds, in per cent of the measure, is `at_least` so much.
sensitivity: that standard deviation differs between the rows.
converges: trials until a search is near its own final best: fewer than the paper says, and than the other search's.
finds: the final best of the search is below the other's.
none: no run of this program decides it; `untestable` says why.
"""


class RowRef(NamedTuple):
    """A row of the paper."""

    item: str
    recovery: str
    label: str

    def row(self) -> PaperRow:
        """KeyError if there is none."""
        for row in load_item(self.item).rows:
            if (row.recovery, row.label) == (self.recovery, self.label):
                return row
        raise KeyError(self)


Way = Literal["cell", "mean", "difference", "share", "shares", "drop", "quotient", "tasks"]
"""How a number follows from rows of the paper's tables:

cell: the number itself. mean: of a row's seven accuracies. difference, quotient: of two rows.
share: the first as per cent of the second. drop: by how many per cent the first is below the second.
shares: the difference of the first two, both as per cent of the third.
tasks: on how many of the seven tasks the first is above the second.
"""


class Derived(Data):
    """A number of the paper's text, and the one way in which it follows from rows of its tables, by `metric`."""

    value: float
    metric: str = "average_acc"
    way: Way
    refs: tuple[RowRef, ...]

    @model_validator(mode="before")
    @classmethod
    def _one_way(cls, data: dict[str, Any]) -> dict[str, Any]:
        """A file has the rows under the name of the way."""
        named = [name for name in get_args(Way) if name in data]
        if len(named) != 1:
            raise ValueError("one way is needed")
        return {"way": named[0], "refs": data[named[0]]} | {k: v for k, v in data.items() if k not in named}

    @property
    def rows(self) -> list[PaperRow]:
        return [ref.row() for ref in self.refs]


class Claim(Data):
    """A claim.

    Attributes:
        text: what is claimed, a sentence. where: in the paper. quote: its words there.
        headline: it is one of the abstract's.
        items: the keys of the tables and figures that it rests on; a report of one of them has a verdict on it.
        rows: of the paper. against: rows too; None: the other methods' of the same table, model, ratio and recovery.
        untuned: of tuned rows, and tried on untuned ones where a run has none of them.
        measures: keys of columns; `perplexity`, the mean over texts; `tasks`, every accuracy on its own.
        at_least: the threshold of some rules, in the unit of the effect.
        trials: that a search needs for the claim to be tested.
        untestable: why no run decides it, where there is no rule.
        printed: the numbers that the text gives.
    """

    id: str
    text: str
    where: str
    quote: str
    headline: bool = False
    items: list[str] = Field(min_length=1)
    rule: Rule
    rows: tuple[RowRef, ...] = ()
    against: tuple[RowRef, ...] | None = None
    untuned: bool = False
    measures: tuple[str, ...] = ()
    at_least: float | None = None
    untestable: str | None = None
    trials: int | None = None
    printed: tuple[Derived, ...] = ()

    @property
    def pairs(self) -> list[tuple[RowRef, RowRef]]:
        """Each row with each that it is held against."""
        return [(ref, other) for ref in self.rows for other in (_others(ref) if self.against is None else self.against)]


def _others(ref: RowRef) -> tuple[RowRef, ...]:
    own = ref.row()
    return tuple(
        RowRef(ref.item, row.recovery, row.label)
        for row in load_item(ref.item).rows
        if row.method not in ("dense", own.method)
        and (row.model, row.ratio, row.recovery) == (own.model, own.ratio, own.recovery)
    )


class Paper(Data):
    """What a run is held against.

    Attributes:
        claims: in the paper's order.
        models: the labels of its models. conditions: of its experiments, by topic; None where it says nothing.
    """

    claims: tuple[Claim, ...]
    models: dict[str, str]
    conditions: dict[str, str | None]


@cache
def paper() -> Paper:
    return Paper(claims=read("claims"), **read("conditions"))
