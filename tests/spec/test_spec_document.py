"""Documents: specs that include others."""

import pytest

from reproducer.spec import Document, SpecError, load

ONE = """\
name: one
models: [big]
methods: [magnitude]
prune: {structure_ratio: 0.25}
evaluate: {perplexity: [text]}
"""
PROFILE = "map: {models: {big: small}, structure_ratio: {0.25: 0.20, 0.5: 0.40}}\nset: {seeds: [7]}\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "one.yaml").write_text(ONE)
    (tmp_path / "two.yaml").write_text(ONE.replace("one", "two"))
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "less.yaml").write_text(PROFILE)
    return tmp_path


def document(folder, text, *more):
    (folder / "all.yaml").write_text(text)
    return load(folder / "all.yaml", *more)


def test_it_has_its_specs_in_their_order_each_with_what_is_set(folder):
    found = document(
        folder, "name: all\ntitle: Both\ninclude:\n  - two.yaml\n  - {spec: one.yaml, set: {seeds: [1, 2]}}\n"
    )
    assert isinstance(found, Document) and (found.name, found.title) == ("all", "Both")
    assert [(spec.name, spec.seeds) for spec in found.specs] == [("two", [0]), ("one", [1, 2])]


def test_what_is_set_goes_through_the_profiles_and_options_come_last(folder):
    text = "name: all\ninclude: [{spec: one.yaml, set: {prune: {structure_ratio: 0.5}, seeds: [1]}}]\n"
    (spec,) = document(folder, text, ["less"], ["title=last"]).specs
    assert (spec.models[0].name, spec.prune.ratio, spec.seeds, spec.title) == ("small", [0.4], [7], "last")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: all\ninclude: [three.yaml]\n", r"all.yaml:2: include: there is no file .*three.yaml"),
        ("name: all\ninclude: []\n", r"all.yaml:2: include"),
        ("name: all\ninclude: [{spec: one.yaml, seeds: [1]}]\n", r"all.yaml:2: .*seeds"),
        ("name: all\nmodels: [big]\ninclude: [one.yaml]\n", r"all.yaml:2: unknown key 'models'"),
        ("name: all\ninclude:\n  - {spec: one.yaml, set: {sedes: [1]}}\n", r"all.yaml:3: unknown key 'sedes'.*seeds"),
        ("name: all\ninclude:\n  - {spec: one.yaml, set: {seeds: [x]}}\n", r"all.yaml:3: seeds\[0\]"),
        ("name: all\ninclude: [all.yaml]\n", r"all.yaml:\d: (include|models|methods)"),
    ],
)
def test_a_mistake_is_told_with_the_line_where_it_was_made(folder, text, message):
    with pytest.raises(SpecError, match=message):
        document(folder, text)
