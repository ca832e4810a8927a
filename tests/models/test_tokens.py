"""Tokens are counted where they pass: at the decoder layers."""

import torch

from reproducer.models.tokens import Tokens, counting
from reproducer.models.walk import LayerWalk
from reproducer.pruning.collect import Limits, collect
from reproducer.pruning.statistics import Element, InputNorm, Power
from tests.helpers import tiny, tokens


def test_passes_of_the_whole_model():
    model, ids = tiny(layers=3), tokens(4, 8)
    with counting(model, Tokens()) as spent:
        with torch.no_grad():
            model(ids)
        assert vars(spent) == {"forward": 3 * 32, "backward": 0}
        model(ids, labels=ids).loss.backward()
        assert vars(spent) == {"forward": 6 * 32, "backward": 3 * 32}
    model(ids)
    assert vars(spent) == {"forward": 6 * 32, "backward": 3 * 32}, "outside nothing is counted"


def test_statistics_and_parts_of_a_model():
    model, ids = tiny(layers=4), tokens(2, 8)

    def spent(*wanted, **options):
        with counting(model, Tokens()) as found:
            collect(model, ids, [2, 3], wanted, **options)
        return found.forward // 16, found.backward // 16

    assert spent(Power(2)) == (0, 0), "weights are no tokens"
    assert spent(InputNorm()) == (4, 0)
    assert spent(Element(0)) == (4, 2), "no further back than the first layer that is scored"
    assert spent(Element(0), limits=Limits(activations=0)) == (5, 2), "all but the last are computed again"
    with counting(model, Tokens()) as found, torch.no_grad():
        walk = LayerWalk(model, 8)
        walk.run(1, walk.embed(ids))
    assert found.forward == 16


def test_copies_count_and_other_models_do_not():
    model, ids = tiny(layers=2), tokens(2, 8)
    import copy

    with counting(model, Tokens()) as found, torch.no_grad():
        copy.deepcopy(model)(ids)
        tiny("mistral", layers=2)(ids)
    assert found.forward == 2 * 16
