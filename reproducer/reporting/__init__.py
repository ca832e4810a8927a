"""results.json (plain dicts) -> report.md, report.tex and figures, with the paper's numbers beside what was measured.

What comes in is described by results.json itself: `render` writes what it is given, adding `paper`. Accuracies are
fractions of 1, `params_removed` too; tables and comparisons show them in percent, as the paper does.
"""

from reproducer.reporting.compare import compare, load_item, paper_items
from reproducer.reporting.render import render

__all__ = ["compare", "load_item", "paper_items", "render"]
