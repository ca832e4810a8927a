"""Every mistake in a spec names its file, line and place, and says what would be right, in plain words."""

import re

import pytest

from reproducer.spec import SpecError, load_spec

BASE = "name: x\nmodels: [tiny]\nmethods: [magnitude]\n"
JARGON = re.compile(r"Input should|Extra inputs|Field required|\[type=|pydantic|ValidationError|Value error|<class|!!")

# what follows BASE, whose lines are 1 to 3 -> the start of the only message, and what it has to say
AFTER_BASE = {
    "unknown key": ("modles: [tiny]", "x.yaml:4: unknown key 'modles'", "did you mean 'models'?"),
    "unknown key in a section": ("prune:\n  scope: local\n  rato: 1", "x.yaml:6: prune: unknown key 'rato'", "'ratio'"),
    "a key of another section": ("ratio: 0.2", "x.yaml:4: unknown key 'ratio'", "it belongs in 'prune'"),
    "a number as key": ("7: 1", "x.yaml:4: the key 7 is not text", "quotes"),
    "ratio 0": ("prune:\n  ratio: 0", "x.yaml:5: prune.ratio: should be a fraction", "dense model is always reported"),
    "ratio as percent": ("prune:\n  ratio: 20%", "x.yaml:5: prune.ratio: should be a fraction", "write 0.2"),
    "both ratios": (
        "prune:\n  structure_ratio: 0.2\n  ratio: 0.2",
        "x.yaml:5: prune.structure_ratio: cannot stand beside 'ratio'",
        "keep 'ratio' (of all parameters) or 'structure_ratio'",
    ),
    "layers reversed": ("prune:\n  layers: [30, 4]", "x.yaml:5: prune.layers: [30, 4] holds no layer", "[4, 30]"),
    "unknown choice": ("prune:\n  scope: globl", "x.yaml:5: prune.scope: should be one of", "did you mean 'global'?"),
    "a pool too small": (
        "calibration:\n  pool: 9",
        "x.yaml:5: calibration.pool: a pool of 9 passages cannot give 10 samples",
        "10 or more",
    ),
    "reproduces what": (
        "reproduces:\n  tabel: 1",
        "x.yaml:5: reproduces: unknown key 'tabel'",
        "did you mean 'table'?",
    ),
    "a number as text": ("title: 5", "x.yaml:4: title: should be text, not 5", "quotes"),
    "duplicate key": (
        "search:\n  trials: 3\n  trials: 3",
        "x.yaml:6: search: the key 'trials' is written twice",
        "line 5",
    ),
    "an alias of itself": ("seeds: &a [0, *a]", "x.yaml:4: seeds[1]: an alias that contains itself", ""),
    "a merge of nothing": ("search: {<<: 5}", "x.yaml:4: search: '<<' takes the alias of a mapping", ""),
}

METHODS = {
    "without a name": ("methods:\n- label: a", "x.yaml:4: methods[0].name: is missing", ""),
    "twice": ("methods:\n- vector\n- vector", "x.yaml:5: methods[1]: 'vector' is listed twice", "a label of its own"),
    "unknown key in an override": (
        "methods:\n- name: adapruner\n  calibration:\n    sampels: 1",
        "x.yaml:6: methods[0].calibration: unknown key 'sampels'",
        "did you mean 'samples'?",
    ),
    "a value in an override": (
        "methods: [{name: a, prune: {ratio: 0}}]",
        "x.yaml:3: methods[0].prune.ratio: ",
        "dense",
    ),
}

SYNTAX = {
    "not closed": ("name: x\nprune: {ratio: 0.1\nseeds: 0\n", "x.yaml:3: not valid YAML: a comma", "begins on line 2"),
    "quotation mark": ("name: x\ntitle: 'abc\n", "x.yaml:2: not valid YAML: a quotation mark is not closed", ""),
    "tab": ("name: x\nprune:\n\tratio: 1\n", "x.yaml:3: not valid YAML: a tab indents the line", "spaces"),
    "colon in text": ("name: x\ntitle: a: b\n", "x.yaml:2: not valid YAML: no key can stand here", "quote"),
    "no anchor": ("name: x\ntitle: *a\n", "x.yaml:2: not valid YAML: an alias", "anchor"),
    "two documents": ("name: x\n---\nname: y\n", "x.yaml:2: not valid YAML: a second document", ""),
    "empty": ("", "x.yaml:1: the file is empty", "key: value"),
}


def check(lines, start, words):
    assert len(lines) == 1, lines
    assert lines[0].startswith(start)
    assert words in lines[0]
    assert not JARGON.search(lines[0])


@pytest.mark.parametrize("case", AFTER_BASE)
def test_a_mistake_after_the_first_lines(mistakes, case):
    text, start, words = AFTER_BASE[case]
    check(mistakes(BASE + text + "\n"), start, words)


@pytest.mark.parametrize("case", METHODS)
def test_a_mistake_in_methods(mistakes, case):
    text, start, words = METHODS[case]
    check(mistakes("name: x\nmodels: tiny\n" + text + "\n"), start, words)


@pytest.mark.parametrize("case", SYNTAX)
def test_what_is_not_a_spec_at_all(mistakes, case):
    check(mistakes(SYNTAX[case][0]), *SYNTAX[case][1:])


def test_a_tag_is_refused_and_never_executed(mistakes):
    lines = mistakes(BASE + "title: !!python/object/apply:os.getcwd []\n")
    assert lines[0].startswith("x.yaml:4: title: the tag '!!python/object/apply:os.getcwd' has no meaning here")


def test_required_keys(mistakes):
    assert mistakes("title: y\n") == [
        f"x.yaml:1: {key}: is missing; needed here: name, models, methods" for key in ("name", "models", "methods")
    ]


def test_all_mistakes_in_file_order(mistakes):
    lines = mistakes("""\
        name: x
        calibration: {samples: -1, length: 1}
        prune:
          rato: 0.2
          layers: [3, 1]
        models: [tiny, tiny]
        calibration: {}
        methods:
        - name: vector
        seeds: [a, 0, 0]
        """)
    starts = [
        "x.yaml:2: calibration.samples:",
        "x.yaml:2: calibration.length:",
        "x.yaml:4: prune: unknown key 'rato'",
        "x.yaml:5: prune.layers:",
        "x.yaml:6: models[1]:",
        "x.yaml:7: the key 'calibration' is written twice",
        "x.yaml:10: seeds[0]:",
        "x.yaml:10: seeds[2]:",
    ]
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)


def test_bytes_that_are_no_text(write):
    path = write("")
    path.write_bytes(b"name: x\ntitle: \xff\n")
    with pytest.raises(SpecError, match=r"^x.yaml:2: is not UTF-8 text"):
        load_spec(path)
