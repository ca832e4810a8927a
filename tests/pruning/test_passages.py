"""Statistics of single passages that stages share through files."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from reproducer.methods.prune import plan_for
from reproducer.methods.registry import METHODS, Request
from reproducer.models.tokens import Tokens, counting
from reproducer.pruning import passages as passages_module
from reproducer.pruning.cut import Cut
from reproducer.pruning.passages import PassageFiles
from reproducer.pruning.statistics import First, InputMean, Second
from reproducer.queue.context import Context
from reproducer.search import objective as objective_module
from reproducer.search.objective import Objective
from tests.helpers import tiny, tokens

LAYERS = [1, 2]
WANTED = {First(), Second()}


@pytest.fixture(scope="module")
def model():
    return tiny(groups=2)


@pytest.fixture
def another(model, tmp_path, monkeypatch):
    """Makes an objective on the same files; and the passages that any of them has collected."""
    pool, texts = tokens(6, 12), {"a": tokens(3, 10)}
    collected, collect = [], objective_module.collect

    def counted(model, ids, *arguments, **keywords):
        collected.extend(next(i for i, row in enumerate(pool) if torch.equal(row, one)) for one in ids)
        return collect(model, ids, *arguments, **keywords)

    monkeypatch.setattr(objective_module, "collect", counted)

    def make(files=True):
        shared = tmp_path / "passages" if files else None
        return Objective(model, pool, texts, LAYERS, Cut(ratio=0.2, heads="pooled"), passages=shared)

    return make, collected


def same(one, other):
    assert one.keys() == other.keys() == set(LAYERS)
    for layer, modules in one.items():
        for module, found in modules.items():
            assert found.keys() == other[layer][module].keys()
            assert all(torch.equal(values, other[layer][module][statistic]) for statistic, values in found.items())


def test_a_passage_is_collected_once_for_all_searches(another):
    make, collected = another
    alone = make(files=False)
    expected = alone.statistics([0, 3, 5], WANTED), alone.statistics([5, 1], WANTED)
    assert sorted(collected) == [0, 1, 3, 5]
    collected.clear()
    first = make()
    same(first.statistics([0, 3, 5], WANTED), expected[0])
    second = make()
    same(second.statistics([0, 3, 5], WANTED), expected[0])
    same(second.statistics([5, 1], WANTED), expected[1])
    assert collected == [0, 3, 5, 1]
    assert second.spent() == alone.spent()  # what it would have cost alone


def test_other_statistics_of_a_known_passage_are_collected(another):
    make, collected = another
    make().statistics([2], {Second()})
    make().statistics([2], {Second()})
    assert collected == [2]
    same(make().statistics([2], WANTED), make(files=False).statistics([2], WANTED))
    assert collected == [2, 2, 2]
    make().statistics([2], {First()})  # now both are there
    assert collected == [2, 2, 2]
    make().statistics([2], {InputMean()})
    assert collected == [2, 2, 2, 2]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_file_is_made_again(another, tmp_path, damage):
    make, collected = another
    expected = make().statistics([4], WANTED)
    (path,) = (tmp_path / "passages").iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    path.write_bytes({"flipped": bytes(flipped), "cut": whole[:-100], "empty": b""}[damage])
    same(make().statistics([4], WANTED), expected)
    same(make().statistics([4], WANTED), expected)
    assert collected == [4, 4]
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_where_files_cannot_be_written_the_search_goes_on(another, tmp_path, caplog):
    make, _ = another
    (tmp_path / "passages").write_text("a file in the folder's place")
    with caplog.at_level(logging.WARNING):
        found = make().statistics([1], WANTED)
    same(found, make(files=False).statistics([1], WANTED))
    assert "could not be kept for other stages" in caplog.text


def test_shared_folders_are_named_by_inputs_and_settings(tmp_path):
    def folder(digests, **what):
        inputs = {"model": tmp_path / "model" / "0123456789abcdef0123"}
        context = Context(tmp_path / "work", inputs, _shared=tmp_path / "shared", _digests=digests)
        return context.shared("model", **what)

    known = folder({"model": "a"}, dtype="float32", layers=[4, 30])
    assert known == folder({"model": "a"}, layers=[4, 30], dtype="float32") and known.parent == tmp_path / "shared"
    others = [
        folder({"model": "b"}, dtype="float32", layers=[4, 30]),
        folder({"model": "a"}, dtype="float32", layers=None),
    ]
    assert len({known, *others}) == 3
    assert known.name.startswith("0123456789abcdef0123-")  # the store's clean knows by it whose it is


@pytest.mark.parametrize("name", ["llm-pruner-e2", "vector"])
def test_a_method_prunes_by_known_passages(model, tmp_path, monkeypatch, name):
    """As it does by one pass over its samples; what another stage has collected is not collected again."""
    ids, collected = tokens(6, 12), []
    collect = passages_module.collect

    def counted(model, ids, *arguments, **keywords):
        collected.append(len(ids))
        return collect(model, ids, *arguments, **keywords)

    monkeypatch.setattr(passages_module, "collect", counted)
    cut = Cut(ratio=0.2, heads="pooled")
    for samples, new in ((ids[:4], 4), (ids[2:], 2), (ids[[5, 0, 0]], 0)):
        collected.clear()
        request = Request(model, METHODS.get(name), cut, ids=samples, layers=LAYERS)
        with counting(model, Tokens()) as spent:
            files = PassageFiles(tmp_path / "passages", spent)
            plan = plan_for(replace(request, passages=files))
        with counting(model, Tokens()) as alone:
            expected = plan_for(request)
        assert plan.kept_heads == expected.kept_heads and plan.kept_channels == expected.kept_channels
        assert sum(collected) == new
        assert spent == alone
