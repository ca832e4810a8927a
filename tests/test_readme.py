"""What the README shows is what the committed reports say."""

import re
from collections import Counter
from functools import cache
from pathlib import Path
from statistics import fmean

import pytest

from reproducer.evaluation.measured import Gguf
from reproducer.exporting import before_after
from reproducer.paper.claims import paper
from reproducer.reporting.verdicts import verdicts
from reproducer.stages.results import Results

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RENDERED = ["quickstart", "paper-small", "controls-small", "deploy-small"]


@cache
def results(name: str) -> Results:
    return Results.model_validate_json((ROOT / "reports" / name / "results.json").read_bytes())


def table(page: str) -> str:
    """The first table behind the heading "Results"."""
    lines = page.partition("\n## Results\n")[2].splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("|"))
    end = next(place for place, line in enumerate(lines[first:], first) if not line.startswith("|"))
    return "\n".join(lines[first:end])


def test_its_table_is_the_quickstarts():
    found = table((ROOT / "reports/quickstart/report.md").read_text(encoding="utf-8"))
    assert found.count("\n") == 7 and found in README


def numbers(text: str) -> list[str]:
    """All numbers of a text outside of names and addresses."""
    text = re.sub(r"\]\([^)]*\)|SmolLM2-135M|`[^`]*`", " ", text)
    return re.findall(r"\d+(?:\.\d+)*", text)


def mean_perplexity(of: Results, label: str) -> str:
    """Over the seeds of the untuned rows called so."""
    rows = [row for row in of.rows if (row.label, row.recovery) == (label, "none")]
    every = [row.metrics[key] for row in rows for key in ("wikitext2_ppl", "ptb_ppl")]
    assert len(every) == 2 * len({row.seed for row in of.rows if row.recovery == "none"})
    return f"{fmean(every):.0f}"


def test_every_number_beside_the_table_is_a_reports():
    """All of the section "A result" but its table, in their order."""
    section = README.partition("\n## A result\n")[2].partition("\n## ")[0]
    section = section.replace(table((ROOT / "reports/quickstart/report.md").read_text(encoding="utf-8")), "")
    quickstart, article, controls, deploy = map(results, RENDERED)
    table1 = article.of_part(article.parts[0])
    judged = Counter(one.outcome for one in verdicts(article, paper()))
    dense, *cut = (row for row in deploy.rows)
    files = {(row.label, one.type): one for row in deploy.rows for one in row.of_kind(Gguf).values()}
    whole, bits = files[dense.label, "f16"], files[dense.label, "q8_0"]
    same = [files[row.label, "f16"] for row in cut]
    times = sorted(one.perplexity / whole.perplexity for one in same)
    sizes = {f"{100 * one.bytes / whole.bytes:.0f}" for one in same}
    assert len(sizes) == 1 and len({row.seed for row in quickstart.rows}) == 1
    told = (round(bits.bytes / whole.bytes, 2), round(bits.perplexity / whole.perplexity, 2))
    assert told == (before_after.BITS_SIZE, before_after.BITS_PERPLEXITY), "what `reproduce prune` says of 8 bits"
    assert numbers(section) == [
        f"{100 * quickstart.spec['prune']['ratio'][0]:.0f}",
        quickstart.environment.python.rpartition(".")[0],
        str(sum(judged.values())),
        *(str(judged[outcome]) for outcome in ("supported", "contradicted", "inconclusive", "not tested")),
        str(sum(row.status == "done" for row in article.rows)),
        str(len(article.rows)),
        *(mean_perplexity(table1, label) for label in ("AdaPruner", "LLM-Pruner-E2")),
        str(len(table1.spec["seeds"])),
        str(table1.spec["search"]["trials"]),
        *(mean_perplexity(controls, label) for label in ("LLM-Pruner-E2", "AdaPruner")),
        str(controls.spec["search"]["trials"]),
        *(
            mean_perplexity(controls, f"E2, {label}")
            for label in ("32 of the search's texts", "the same in four steps")
        ),
        bits.type[1],
        f"{100 * bits.bytes / whole.bytes:.0f}",
        f"{bits.perplexity / whole.perplexity:.2f}",
        *sizes,
        f"{times[0]:.1f}",
        f"{times[-1]:.1f}",
    ]


def test_every_report_is_linked_and_every_link_leads_to_one():
    links = set(re.findall(r"\]\((reports/[^)]*)\)", README))
    assert all((ROOT / link).is_file() for link in links)
    folders = {path.parent.name for path in (ROOT / "reports").glob("*/results.json")}
    assert {link.split("/")[1] for link in links} == folders


@pytest.mark.parametrize("name", RENDERED)
def test_committed_reports_are_rendered_from_their_results(name, tmp_path, monkeypatch):
    """Byte for byte but for figures, whose bytes depend on the fonts of the machine: none is drawn here."""
    from reproducer.reporting import figures, render

    monkeypatch.setattr(figures, "_write", lambda _, path: path.write_bytes(b""))
    folder = ROOT / "reports" / name
    written = render(results(name), tmp_path)
    texts = [path for path in written if path.suffix in (".md", ".tex", ".json")]
    assert {"report.md", "report.tex", "results.json"} <= {path.name for path in texts}
    for path in texts:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path.name
