import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reproducer.reporting import render

from . import fake
from .test_escape import HOSTILE, read


def hostile() -> dict:
    """A report whose every name is an attack on its format."""
    results = fake.quickstart()
    results["spec"] = {"name": "quickstart", "title": HOSTILE, "reproduces": {"table": 1}}
    results["profile"] = [HOSTILE]
    for metric in results["metrics"]:
        metric["label"] = HOSTILE[:12]
    for row in results["rows"]:
        row |= {"model": HOSTILE, "label": f"{row['method']} {HOSTILE}"}
        row["stages"] = {HOSTILE: HOSTILE}
    results["rows"][2] = fake.failed(
        "vector", results["metrics"], f"{HOSTILE} in /home/me/secret/thing.py", model=HOSTILE
    )
    results["searches"][0] |= {"model": HOSTILE, "label": HOSTILE, "objective": HOSTILE}
    results["searches"][0]["candidates"][0]["label"] = HOSTILE
    results["searches"][0]["best"] |= {"label": HOSTILE, "params": {HOSTILE: HOSTILE}}
    results["searches"][0]["best"]["samples"] = [{"index": 1, "text": HOSTILE * 3}]
    results["environment"] |= {"platform": HOSTILE, "packages": {HOSTILE: HOSTILE}}
    letters = "".join(map(chr, [*range(0x20, 0x180), *range(0x180, 0x3000, 29)]))
    results["choices"] = [{"topic": HOSTILE, "text": HOSTILE}, {"topic": "letters", "text": letters}]
    return results


def compile_tex(directory: Path) -> str:
    """The log of the second run of pdflatex in `directory`; fails the test if it fails."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: the LaTeX report is not compiled here")
    for _ in range(2):
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"],
            cwd=directory, capture_output=True, text=True, errors="replace", timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def test_results_survive_the_round_trip(tmp_path):
    results = fake.table1()
    results["rows"][0]["metrics"]["ptb_ppl"] = 0.1 + 0.2
    files = render(results, tmp_path / "a")
    kept = json.loads((tmp_path / "a" / "results.json").read_text(encoding="utf-8"))
    assert kept["rows"] == results["rows"]
    assert kept["paper"]["item"] == "Table 1"
    again = render(kept, tmp_path / "b")
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_files_do_not_depend_on_the_order_of_keys(tmp_path, monkeypatch):
    monkeypatch.setattr("reproducer.reporting.figures.draw", lambda *_: [])
    results = fake.quickstart()
    turned = dict(reversed(results.items())) | {"environment": dict(reversed(results["environment"].items()))}
    for one, other in zip(render(results, tmp_path / "a"), render(turned, tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_json_has_not_are_refused_by_place(tmp_path, bad):
    results = fake.quickstart()
    results["rows"][3]["metrics"]["quiz_acc"] = bad
    with pytest.raises(ValueError, match=r"results\.rows\[3\]\.metrics\.quiz_acc"):
        render(results, tmp_path)
    assert not list(tmp_path.iterdir())


def test_accuracies_in_percent_are_refused(tmp_path):
    results = fake.quickstart()
    results["rows"][1]["metrics"]["quiz_acc"] = 26.4
    with pytest.raises(ValueError, match=r"rows\[1\]\.metrics\.quiz_acc: an accuracy is a fraction"):
        render(results, tmp_path)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    results = fake.quickstart() | {"profile": ["small"]}
    results["rows"][1] = fake.failed("magnitude", results["metrics"], "no memory left")
    render(results, directory)
    return directory


def test_markdown_says_what_a_reader_asks(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    for heading in (
        "Results",
        "What the search found",
        "What failed",
        "Choices",
        "Environment",
        "Run it again",
        "Provenance",
    ):
        assert f"\n## {heading}\n" in text
    assert "Magnitude, 20%, w/o tune, seed 0: no memory left" in text
    assert "    reproduce specs/quickstart.yaml --profile small\n" in text
    for link in ("figures/search-smollm2-135m-adapruner-20-seed0.png", "figures/average-perplexity.png"):
        assert link in text
        assert (report / link).is_file()
    assert "3f9c1d20ab47" in text
    assert "Q4\\_1" in text


def test_hostile_names_stay_text(tmp_path, recwarn):
    render(hostile(), tmp_path)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    _, kinds = read(markdown)
    assert not kinds & {"html_inline", "html_block", "link_open", "code_inline", "s_open"}
    assert kinds >= {"table_open", "image"}
    for name in ("report.md", "report.tex"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "/home/me" not in text
        assert "…/thing.py" in text or r"\ldots{}/thing.py" in text
    log = compile_tex(tmp_path)
    assert "Missing character" not in log


def test_latex_compiles_and_fits_its_pages(report):
    log = compile_tex(report)
    assert "Overfull" not in log
    assert "Missing character" not in log
    assert (report / "report.pdf").stat().st_size > 20_000


def test_wide_tables_fit_pages_on_their_side(tmp_path):
    render(fake.table1("llama-7b", seeds=(0, 1)), tmp_path)
    assert ",landscape]{geometry}" in (tmp_path / "report.tex").read_text(encoding="utf-8")
    assert "Overfull" not in compile_tex(tmp_path)


def test_importing_reporting_imports_nothing_heavy():
    code = (
        "import sys, reproducer.reporting; heavy = ['torch', 'matplotlib', 'statsmodels', 'scipy', 'pandas']; "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
