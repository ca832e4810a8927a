"""What dense and pruned models write after a prompt."""

from reproducer.evaluation.measured import Generation
from reproducer.reporting.markdown import render
from reproducer.stages.results import Results, Row


def section(results: Results) -> str | None:
    """Of the report: the rows' texts after each prompt, and those that the paper prints."""
    prompts: dict[str, list[tuple[Row, list[str]]]] = {}
    for row in results.rows:
        for generation in row.of_kind(Generation).values():
            prompts.setdefault(generation.prompt, []).append((row, lines_of(generation.text)))
    if not prompts:
        return None
    papers = [run.paper for run in (results, *map(results.of_part, results.parts)) if run.paper is not None]
    printed = [(one, lines_of(one.text)) for paper in papers for one in paper.generations]
    after = [(lines_of(prompt), texts) for prompt, texts in prompts.items()]
    return render("generations.j2", prompts=after, printed=printed, rows=results.rows)


def lines_of(text: str) -> list[str]:
    """The lines of a text; blank ones once, none at the ends."""
    kept: list[str] = []
    for line in text.strip().splitlines():
        if line.strip() or (kept and kept[-1]):
            kept.append(line.strip())
    return kept
