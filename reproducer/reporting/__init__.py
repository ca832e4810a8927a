"""The paper's numbers, comparison, templates and figures."""
