"""Text that every Python installation carries, so that a first run needs no download.

Three sets: `python-topics`, the language reference inside `pydoc_data.topics`, and `python-docstrings` and
`python-packages`, the docstrings of two fixed lists of standard-library modules (parsed, never imported). They differ
between Python versions, so a report names the version and the fingerprint of what was read.
"""

import ast
import inspect
import platform
import re
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent / "builtin"
FILES = {"quiz": FOLDER / "quiz.jsonl", "instructions": FOLDER / "instructions.jsonl"}

TEXTS = ("python-topics", "python-docstrings", "python-packages")
ROLES = ("calibration", "search", "report")

RULE = 1
"""Version of the cleaning and splitting below: it joins the key of every stage that reads these texts."""

PASSAGE_WORDS = 110
"""A passage is a run of paragraphs of at least this many words: nearly always 128 tokens or more."""

SPLIT = ("calibration", "search", "calibration", "calibration", "report") * 2
"""The role of passage number i is `SPLIT[i % 10]`: six parts calibration, two search, two report."""

MODULES = """
    argparse configparser difflib doctest email.message http.cookiejar http.server inspect ipaddress logging
    logging.handlers optparse pathlib pdb platform random shutil smtplib socketserver statistics subprocess
    tempfile threading turtle typing unittest.case unittest.mock urllib.parse urllib.request
"""

PACKAGES = """
    asyncio.base_events asyncio.events asyncio.streams asyncio.subprocess asyncio.tasks calendar cmd codecs
    collections concurrent.futures._base concurrent.futures.process csv ctypes email.charset email.header enum
    fractions ftplib functools gettext gzip heapq imaplib importlib.metadata json json.decoder json.encoder
    mailbox multiprocessing.managers numbers pickletools poplib selectors ssl string tarfile textwrap tokenize
    traceback types weakref xml.dom.minidom xml.etree.ElementTree xmlrpc.client zipfile
"""

# no module is in both
DOCSTRINGS = {"python-docstrings": tuple(MODULES.split()), "python-packages": tuple(PACKAGES.split())}


@cache
def passages(name: str, role: str) -> tuple[str, ...]:
    """The passages of one role of a built-in text; no paragraph occurs twice in any role of any set."""
    return tuple(passage for i, passage in enumerate(_all_passages(name)) if SPLIT[i % len(SPLIT)] == role)


def location(name: str) -> str:
    """Where the text comes from, for messages and reports: the origin and the version of Python."""
    origin = f"docstrings of {len(DOCSTRINGS[name])} modules" if name in DOCSTRINGS else "pydoc_data.topics"
    return f"{origin}, {platform.python_implementation()} {platform.python_version()}"


def paragraph_key(paragraph: str) -> str:
    """What makes two paragraphs the same: their words, whatever the case and the punctuation."""
    return " ".join(re.findall(r"\w+", paragraph.casefold()))


def _all_passages(name: str) -> Iterator[str]:
    run: list[str] = []
    words = 0
    for paragraph in _paragraphs(name):
        run.append(paragraph)
        words += len(paragraph.split())
        if words >= PASSAGE_WORDS:
            yield "\n\n".join(run)
            run, words = [], 0
    # What is left at the end is shorter than a passage: dropped.


@cache
def _paragraphs(name: str) -> tuple[str, ...]:
    # Topics repeat each other, and so do docstrings: a paragraph counts where it stands first. A set also drops what
    # the sets before it hold, so that one can calibrate and another report.
    seen = {paragraph_key(p) for earlier in TEXTS[: TEXTS.index(name)] for p in _paragraphs(earlier)}
    documents = _topics() if name == "python-topics" else _docstrings(DOCSTRINGS[name])
    kept = []
    for paragraph in (p for document in documents for p in _prose(document)):
        key = paragraph_key(paragraph)
        if key not in seen:
            seen.add(key)
            kept.append(paragraph)
    return tuple(kept)


def _topics() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def _docstrings(modules: tuple[str, ...]) -> Iterator[str]:
    for name in modules:
        source = _source_file(name)
        if source is None:  # this Python does not have the module, or has it without its source
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own old escapes are no concern of the reader
            tree = ast.parse(source.read_bytes())
        yield from _docstrings_below(tree)


def _docstrings_below(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    if docstring := ast.get_docstring(node):
        yield docstring
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings_below(child)


def _source_file(module: str) -> Path | None:
    # Only the top-level name goes through find_spec: for a submodule it would import the package.
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin).parent.joinpath(*rest).with_suffix(".py") if rest else Path(spec.origin)
    return path if path.is_file() else None


def _prose(document: str) -> Iterator[str]:
    # Blocks end at blank lines and where an item of a list begins.
    for block in re.split(r"\n\s*\n|\n(?=\s*[*•-] )", inspect.cleandoc(document)):
        text = re.sub(r"(?<=\w-)\n\s*(?=\w)", "", block)  # words broken at a hyphen
        text = " ".join(text.split())
        text = re.sub(r"^(?:[*•-]|\d+\.|\[\d+\])\s+", "", text)  # bullets, numbers, footnote marks
        text = re.sub(r"(?<!\.)\.\.(?!\.)", ".", re.sub(r"\s*\[\d+\]", "", text))  # references to footnotes
        text = re.sub(r"(?<![\w*])\*(\w[\w .'’-]*)\*(?!\*)", r"\1", text)  # emphasis
        if _reads_as_prose(text):
            yield text


def _reads_as_prose(text: str) -> bool:
    # Grammar, code, signatures, tables and headings fall out.
    if len(text.split()) < 8 or any(sign in text for sign in (">>>", "::=", "...")):
        return False
    sentence = re.match(r"[\"'“‘(]*[A-Za-z]", text) and re.search(r"[.:!?][)\"'”’]*$", text)
    symbols = re.sub(r"[^\W\d_]|[ ,.']", "", text)
    return bool(sentence) and len(symbols) <= 0.14 * len(text)
