"""The paper as data: its tables and figures, its claims, its slips, its own method.

`catalogue` says what is in a file of a table or figure, `claims` what is claimed and how it is judged; `audit`
recomputes what the paper derives from its own tables.
"""

from reproducer.paper.catalogue import (
    SEVEN_TASKS,
    Item,
    Method,
    PaperRow,
    PrintedText,
    Slip,
    items,
    load_item,
    method,
)
from reproducer.paper.claims import Claim, Derived, Paper, RowRef, paper

__all__ = [
    "SEVEN_TASKS",
    "Claim",
    "Derived",
    "Item",
    "Method",
    "Paper",
    "PaperRow",
    "PrintedText",
    "RowRef",
    "Slip",
    "items",
    "load_item",
    "method",
    "paper",
]
