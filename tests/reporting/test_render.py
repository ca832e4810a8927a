import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from reproducer.facts import Facts
from reproducer.reporting import render
from reproducer.reporting.article import article
from reproducer.reporting.deviations import Deviation
from reproducer.reporting.render import summary_of, write
from reproducer.reporting.rules.evidence import Missing
from reproducer.reporting.verdicts import Verdict
from reproducer.stages.results import Model, Results, schema

from . import fake
from .reading import Page, links, read
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


def test_what_utf8_cannot_hold_is_replaced():
    model = fake.change(fake.quickstart().models[0], label="a\ud800b", notes="\ud83d\ude00")
    assert (model.label, model.notes) == ("a\ufffdb", "😀")
    model.model_dump_json().encode("utf-8")
    assert Model.model_validate_json(model.model_dump_json()) == model
    assert issubclass(Results, Facts)


def whole(directory: Path) -> str:
    """The report in Markdown, then its appendix."""
    names = ("report.md", "appendix.md")
    return "\n".join((directory / name).read_text(encoding="utf-8") for name in names)


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
        names = {"model": name, "label": f"{search.label} {name}", "texts": [name]}
        names |= {"space": {name: [name]}, "settings": search.settings | {"sampler": name}}
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


def hostile_verdict(outcome: str) -> Verdict:
    names = {"row": HOSTILE, "baseline": HOSTILE, "measure": HOSTILE, "model": HOSTILE, "recovery_label": HOSTILE}
    case = fake.evidence(**names)
    more = {"text": HOSTILE, "where": HOSTILE, "missing": [Missing(HOSTILE, "no measure", HOSTILE)]}
    return fake.told(outcome, "no measure", *[case] * (outcome == "inconclusive"), **more)


def hostile_deviation() -> Deviation:
    return Deviation(HOSTILE, HOSTILE, HOSTILE)


def test_hostile_names_stay_text(tmp_path):
    verdicts = [hostile_verdict("inconclusive"), hostile_verdict("not tested")]
    told = replace(article(hostile()), verdicts=verdicts, deviations=[hostile_deviation()])
    write(told, tmp_path)
    text = whole(tmp_path)
    _, kinds = read(text)
    assert not kinds & (NOT_TEXT - {"link_open"})
    elsewhere = {link for link in links(text) if not link.startswith("#")}
    assert elsewhere == {"report.md", "appendix.md"} < {*links(text)}, "links lead to headings and the other file"
    assert kinds >= {"table_open", "image", "blockquote_open", "hardbreak"}
    shown, kinds = read("\n".join(line for line in text.splitlines() if line.startswith(">")))
    assert "> c" in shown and not kinds & {"heading_open", "bullet_list_open", "ordered_list_open", "code_block"}
    shown = html_stays_text((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert shown.count("<script>alert(1)</script>") > 60
    for name in ("appendix.md", "report.html", "report.tex"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "/home/me" not in text
        assert "…/thing.py" in text or r"\ldots{}/thing.py" in text
    assert "\x07" not in summary_of(told), "a terminal would ring"
    assert "Missing character" not in compile_tex(tmp_path)


def html_stays_text(source: str) -> str:
    """The text of a page that nothing has got into."""
    page = Page(source)
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert all((attributes["href"] or "").startswith("#") for attributes in page.all("a"))
    return "".join(page.text)


def compile_tex(directory: Path, name: str = "report") -> str:
    """The log of the second run of pdflatex, or of tectonic, in `directory`; fails the test if it fails."""
    if shutil.which("pdflatex"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
    elif shutil.which("tectonic"):
        command = ["tectonic", "--keep-logs", "--print", f"{name}.tex"]
    else:
        pytest.skip("neither pdflatex nor tectonic is installed: the LaTeX report is not compiled here")
    for _ in range(2):
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, errors="replace", timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@pytest.mark.slow
def test_tables_can_be_pasted_into_a_document_with_booktabs_alone(tmp_path):
    results = fake.measured(fake.table1("smollm2-135m", seeds=(0, 1, 2), structure_ratio=None), 4)
    told = replace(article(results), verdicts=fake.four_verdicts(), deviations=fake.DEVIATIONS)
    files = [path for path in write(told, tmp_path) if path.parent.name == "tables"]
    names = {path.stem for path in files}
    assert names >= {"verdicts", "results", "deviations", "costs", "tasks", "searches", "each-search", "paper"}
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert text.count("\\begin{tabular}") == text.count("\\bottomrule") == 1 and text.startswith(
            "% \\usepackage{booktabs"
        )
    inputs = "\n\n".join(f"\\input{{tables/{path.name}}}" for path in files)
    packages = "\\usepackage[T1]{fontenc}\\usepackage{textcomp,booktabs,array}"
    page = f"\\documentclass{{article}}{packages}\\begin{{document}}\n{inputs}\n\\end{{document}}\n"
    (tmp_path / "pasted.tex").write_text(page, encoding="utf-8")
    compile_tex(tmp_path, "pasted")
    assert (tmp_path / "pasted.pdf").stat().st_size > 20_000


def test_latex_compiles_and_fits_its_pages(tmp_path):
    render(fake.quickstart(), tmp_path)
    assert "Overfull" not in compile_tex(tmp_path)


def test_a_dry_run_imports_nothing_heavy_for_its_results():
    code = (
        "import json, sys, reproducer.stages.results; heavy = ['torch', 'matplotlib', 'scipy', 'pandas', 'jinja2'];"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
