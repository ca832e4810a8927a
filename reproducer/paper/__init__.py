"""The paper as data: its tables and figures, its slips, its own method. `catalogue` says what is in a file."""

from reproducer.paper.catalogue import (
    SEVEN_TASKS,
    Item,
    Method,
    Paper,
    PaperRow,
    PrintedText,
    Slip,
    items,
    load_item,
    method,
)

__all__ = [
    "SEVEN_TASKS",
    "Item",
    "Method",
    "Paper",
    "PaperRow",
    "PrintedText",
    "Slip",
    "items",
    "load_item",
    "method",
]
