"""What the README shows is what the committed reports say."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def table(page: str) -> str:
    """The first table behind the heading "Results"."""
    lines = page.partition("\n## Results\n")[2].splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("|"))
    end = next(place for place, line in enumerate(lines[first:], first) if not line.startswith("|"))
    return "\n".join(lines[first:end])


def test_its_table_is_the_quickstarts():
    found = table((ROOT / "reports/quickstart/report.md").read_text(encoding="utf-8"))
    assert found.count("\n") == 7 and found in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["quickstart", "controls-small", "deploy-small"])
def test_committed_reports_are_rendered_from_their_results(name, tmp_path):
    """Byte for byte but for figures, whose bytes depend on the fonts of the machine."""
    from reproducer.reporting import render
    from reproducer.stages.results import Results

    folder = ROOT / "reports" / name
    written = render(Results.model_validate_json((folder / "results.json").read_bytes()), tmp_path)
    texts = [path for path in written if path.suffix in (".md", ".tex", ".json")]
    assert {"report.md", "report.tex", "results.json"} <= {path.name for path in texts}
    for path in texts:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path.name
