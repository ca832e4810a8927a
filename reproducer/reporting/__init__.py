"""`Results` -> report.md, report.tex, results.json and figures, the paper's numbers beside what was measured."""

from reproducer.reporting.render import render

__all__ = ["render"]
