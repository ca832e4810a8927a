"""GPrune-LLM, as it is read here: who competes with whom, and whose score does without activations."""

import numpy as np
import pytest
import torch

from reproducer import prune
from reproducer.methods.gprune_llm import grouped
from tests.families import family_model, layers_of
from tests.helpers import rand, tokens
from tests.methods.inputs import ends, inputs_of

UNITS, TEXTS = 32, 6
ROBUST, SENSITIVE = torch.arange(16), torch.arange(16, 32)


def units(seed=0):
    """Scores of 16 units whose order never changes and of 16 whose order changes from text to text.

    Of the latter, 16 to 23 lie below all robust ones and 24 to 31 above.
    """
    generator = np.random.default_rng(seed)
    texts = torch.empty(TEXTS, UNITS, dtype=torch.double)
    texts[:, ROBUST] = 10 + torch.arange(16.0, dtype=torch.double)
    for text in texts:
        text[16:24] = torch.from_numpy(1.0 + generator.permutation(8))
        text[24:] = torch.from_numpy(100.0 + generator.permutation(8))
    whole = texts.square().mean(0).sqrt()
    return texts, whole, rand(UNITS, seed=generator, dtype=torch.double) + 0.1


def test_robust_units_compete_among_each_other_and_so_do_sensitive_ones():
    texts, whole, without = units()
    found = grouped(texts, whole, without, groups=2, sensitive=1.0, weak=0.5)
    strong, weak = SENSITIVE[8:], SENSITIVE[:8]
    torch.testing.assert_close(found[ROBUST], whole[ROBUST] / whole[ROBUST].mean())
    torch.testing.assert_close(found[strong], whole[strong] / whole[strong].mean())
    torch.testing.assert_close(found[weak], without[weak] / without[weak].mean())


@pytest.mark.parametrize("count", [1, 3, 15])
def test_few_units_are_one_group(count):
    texts, whole, without = (one[..., :count] for one in units())
    found = grouped(texts, whole, without, groups=4, sensitive=1.0, weak=0.0)
    torch.testing.assert_close(found, whole / whole.mean())


SHAPES = [("llama", {"groups": 2}), ("phi3", {"groups": 2, "hidden": 48}), ("opt", {})]


@pytest.mark.parametrize(("kind", "shape"), SHAPES, ids=str)
def test_by_hand(kind, shape):
    """One group: Wanda's scores, or the weights alone, over their mean; then all of it from each text's inputs."""
    model, ids = family_model(kind, channels=80, **shape), tokens(4, 8)
    cut = {"structure_ratio": 0.25, "layers": [1]}
    wanda = prune(model, "wanda", ids, **cut).scores[1]
    active = prune(model, "gprune-llm", ids, **cut, groups=1, weak=0).scores[1]
    silent = prune(model, "gprune-llm", ids, **cut, groups=1, weak=1, sensitive=0.999).scores[1]
    usual = prune(model, "gprune-llm", ids, **cut).scores[1]
    for units, path in ends(model).items():
        count = len(wanda[units])
        torch.testing.assert_close(active[units], wanda[units] / wanda[units].mean(), rtol=1e-9, atol=0)
        magnitude = layers_of(model)[1].get_submodule(path).weight.detach().abs().mean(0)

        def of_units(columns, count=count):
            return columns.view(count, -1).sum(1)

        texts = torch.stack([of_units(magnitude * inputs_of(model, one[None], 1, path).norm(dim=0)) for one in ids])
        ranks = torch.stack([(text[:, None] > text[None]).sum(1) / (count - 1) for text in texts]).double()
        never = ranks.mean(0) == 1  # the highest of all in every text is not below 1
        if ranks.std(0).mean() > 0 and not never.any():
            torch.testing.assert_close(silent[units], of_units(magnitude) / of_units(magnitude).mean())
        torch.testing.assert_close(
            usual[units], grouped(texts, wanda[units], of_units(magnitude), 2, 1.0, 0.25), rtol=1e-9, atol=0
        )
