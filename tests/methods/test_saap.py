"""SAAP: its fused score with noise that is given or learned, and layers cut by how much importance varies."""

import itertools
import math

import numpy as np
import pytest
import torch

from reproducer import prune
from reproducer.methods.saap import fused, indicator
from tests.families import family_model
from tests.helpers import rand, tokens

KINDS = ("heads", "channels")


def model_of(**more):
    return family_model("llama", **{"layers": 6, "heads": 8, "channels": 80, **more})


def orders(scores):
    return {(layer, kind): values.argsort().tolist() for layer, of in scores.items() for kind, values in of.items()}


@pytest.mark.parametrize(
    ("given", "other"), [({"sigma_vector": None}, "llm-pruner-e1"), ({"sigma_element": None}, "vector")]
)
def test_with_one_noise_parameter_at_infinity_it_ranks_as_the_other_metric(given, other):
    model, ids, cut = model_of(), tokens(3, 8), {"structure_ratio": 0.25, "layers": range(6)}
    expected = prune(model, other, ids, **cut)
    given = dict.fromkeys(given, "inf")
    plan = prune(model, "saap", ids, **cut, **given)
    assert orders(plan.scores) == orders(expected.scores)
    even = prune(model, "saap", ids, **cut, **given, fluctuation=0)
    assert (even.kept_heads, even.kept_channels) == (expected.kept_heads, expected.kept_channels)


@pytest.mark.parametrize("sigmas", [(0.7, 2.5), (3.0, 0.2)])
def test_given_noise_weighs_the_metrics(sigmas):
    """Against the definition, from the two methods' own scores."""
    model, ids, cut = model_of(), tokens(3, 8), {"structure_ratio": 0.25, "layers": [1, 2]}
    vector, element = (prune(model, name, ids, **cut).scores for name in ("vector", "llm-pruner-e1"))
    found = prune(model, "saap", ids, **cut, sigma_vector=sigmas[0], sigma_element=sigmas[1]).scores
    for layer in (1, 2):
        for kind in KINDS:
            v, e = (scores[layer][kind] / scores[layer][kind].norm() for scores in (vector, element))
            root = len(v) ** 0.5
            expected = root * (v / (2 * sigmas[0] ** 2) + e / (2 * sigmas[1] ** 2))
            torch.testing.assert_close(found[layer][kind], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_learned_noise_minimises_the_likelihoods_loss(seed):
    """By autograd: at the σ that the scores tell, the mean of the whole score has no slope and bends upwards."""
    generator = np.random.default_rng(seed)
    vector, element = (
        {layer: {"channels": rand(9, seed=generator, dtype=torch.double) ** power} for layer in (0, 1)}
        for power in (3, 1)
    )
    scaled = [
        torch.cat([of["channels"] / of["channels"].square().mean().sqrt() for of in metric.values()])
        for metric in (vector, element)
    ]
    logs = []
    for values, sigmas in zip(scaled, ([None, math.inf], [math.inf, None]), strict=True):
        alone = torch.cat([of["channels"] for of in fused(vector, element, sigmas).values()])
        variances = values / (2 * alone)
        torch.testing.assert_close(variances, variances[:1].expand_as(variances), rtol=1e-12, atol=0)
        logs.append(variances[0].log() / 2)

    def loss(first, second):
        terms = (values / (2 * (2 * log).exp()) + log for values, log in zip(scaled, (first, second), strict=True))
        return sum(term.mean() for term in terms)

    slopes = torch.autograd.functional.jacobian(loss, tuple(logs))
    assert max(abs(slope) for slope in slopes) < 1e-12
    bends = torch.tensor(torch.autograd.functional.hessian(loss, tuple(logs)))
    assert torch.linalg.eigvalsh(bends).min() > 0


@pytest.mark.parametrize("fluctuation", [1.0, 2.5, -1.0])
def test_layers_whose_importance_varies_least_lose_most(fluctuation):
    model, ids = model_of(), tokens(3, 8)
    plan = prune(model, "saap", ids, structure_ratio=0.3, layers=range(6), fluctuation=fluctuation)
    lost = {layer: 80 - len(kept) for layer, kept in plan.kept_channels.items()}
    order = sorted(lost, key=lambda layer: indicator(plan.scores[layer]) ** -fluctuation)
    assert all(lost[more] >= lost[less] - 1 for less, more in itertools.pairwise(order))
    assert max(lost.values()) > min(lost.values()) + 1
    for layer, kept in plan.kept_channels.items():  # within a layer the lowest go
        scores, gone = plan.scores[layer]["channels"], sorted(set(range(80)) - set(kept))
        assert scores[gone].max() <= scores[kept].min()


@pytest.mark.parametrize(("heads", "ratio"), [("auto", 0.3), ("pooled", 0.3), ("local", 0.6)])
def test_heads_have_one_order_where_they_are_pooled(heads, ratio):
    """Two groups a layer: in an order of its own each layer's lower one comes first, in a common one it need not."""
    model, ids = model_of(groups=2), tokens(3, 8)
    plan = prune(model, "saap", ids, structure_ratio=ratio, layers=range(6), heads=heads, fluctuation=1e-9)
    lost = [2 - len(kept) for kept in plan.kept_heads.values()]
    if heads == "local":
        assert lost == [1] * 6
    else:
        shares = {
            (layer, unit): float(share)
            for layer, of_layer in plan.scores.items()
            for unit, share in enumerate(of_layer["heads"] / of_layer["heads"].sum())
        }
        first = sorted(shares, key=shares.get)[: sum(lost)]
        assert 0 < sum(lost) < 6 and all(unit not in plan.kept_heads[layer] for layer, unit in first)


def test_structures_that_are_all_alike():
    """No spread, no gradient: nothing is divided by 0."""
    same, none = {0: {"heads": torch.ones(4)}}, {0: {"heads": torch.zeros(4)}}
    for vector, element in ((same, same), (same, none), (none, none)):
        scores = fused(vector, element, [None, None])
        assert scores[0]["heads"].isfinite().all() and indicator(scores[0]) > 0
