"""report.html: one file without requests, whose tables a reader can sort; in a real browser where there is one."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from reproducer.reporting.article import article
from reproducer.reporting.render import write

from . import fake
from .reading import Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def told():
    results = fake.measured(fake.table1("smollm2-135m", seeds=(0, 1, 2), structure_ratio=None), 5)
    return replace(article(results), verdicts=fake.four_verdicts(), deviations=fake.DEVIATIONS)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("html")
    write(told(), directory)
    return directory / "report.html"


def test_the_page_is_one_file(report):
    source = report.read_text(encoding="utf-8")
    page = Page(source)
    assert source.startswith("<!doctype html>")
    assert not {tag for tag, _ in page.elements} & {"link", "iframe", "object", "base", "form"}
    images = [attributes["src"] for attributes in page.all("img")]
    assert len(images) == 3 and all(src.startswith("data:image/png;base64,") for src in images)
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", source)
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "prefers-color-scheme: dark" in source


def test_links_lead_to_headings_of_the_page(report):
    page = Page(report.read_text(encoding="utf-8"))
    anchors = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(anchors) == len(set(anchors))
    links = [attributes["href"] for attributes in page.all("a")]
    assert len(links) > 10 and all(link[0] == "#" and link[1:] in anchors for link in links)


WATCH = """<head><script>const wrong = [];
addEventListener("error", e => wrong.push(String(e.message || e.target.src)), true);
addEventListener("securitypolicyviolation", e => wrong.push(e.blockedURI));</script>"""
PROBE = """<script>const told = (() => { SCRIPT })(); const pre = document.createElement("pre"); pre.id = "probe";
pre.textContent = JSON.stringify({told, wrong}); document.body.append(pre);</script></body>"""


def browse(report: Path, script: str, directory: Path) -> dict:
    """What a script in the page returns in a headless browser, with the errors and requests of the page."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium or Chrome on PATH: the page is not opened in a browser here")
    source = report.read_text(encoding="utf-8").replace("<head>", WATCH, 1)
    page = directory / "page.html"
    page.write_text(source.replace("</body>", PROBE.replace("SCRIPT", script), 1), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={directory / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads("".join(Page(found[0]).text))


SORT = """
const table = [...document.querySelectorAll("table")].find(one => one.textContent.includes("WikiText2"));
const column = name => [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.startsWith(name));
const values = name => [...table.rows].slice(1).map(row => row.cells[column(name)].textContent);
const click = name => table.tHead.rows[0].cells[column(name)].firstElementChild.click();
const found = {before: values("Method"), images: [...document.images].map(one => one.naturalWidth > 0)};
const tuning = table.rows[3].cells[column("Tuning")];
found.repeated = [tuning.textContent];
click("WikiText2"); found.up = values("WikiText2"); found.sort = table.querySelector("[aria-sort]").ariaSort;
click("WikiText2"); found.down = values("WikiText2");
click("Method"); found.names = values("Method"); found.repeated.push(tuning.textContent);
return found;
"""


def test_a_click_on_a_heading_sorts_the_table(report, tmp_path):
    found = browse(report, SORT, tmp_path)
    assert found["wrong"] == []
    told = found["told"]
    assert all(told["images"])
    numbers = [float(text.split()[0]) for text in told["up"]]
    assert numbers == sorted(numbers) and len(numbers) == 11
    assert told["down"] == told["up"][::-1] and told["sort"] == "ascending"
    assert sorted(told["before"]) == sorted(told["names"]) and told["before"] != told["names"]
    assert told["repeated"] == ["", "w/o tune"], "what repeats the row above reads blank until rows move"
