"""MoreauPruner against E1, and against a descent written down on the whole model."""

import pytest
import torch

from reproducer import prune
from reproducer.errors import UserError
from reproducer.methods import moreau as module
from tests.families import Double, family_model
from tests.helpers import close, decoder_layers, expected_scores, tiny, tokens

PLAIN = {"steps": 1, "noise": 0, "threshold": 0}


@pytest.mark.parametrize(
    ("kind", "units"), [("llama", {"groups": 2}), ("phi3", {"groups": 2, "hidden": 48}), ("opt", {}), ("gemma2", {})]
)
def test_one_step_without_noise_and_threshold_is_e1(kind, units):
    model, ids, cut = family_model(kind, **units), tokens(3, 8), {"structure_ratio": 0.25, "layers": [0, 2]}
    with Double():
        expected, found = prune(model, "llm-pruner-e1", ids, **cut), prune(model, "moreau", ids, **cut, **PLAIN)
    assert (found.kept_heads, found.kept_channels) == (expected.kept_heads, expected.kept_channels)
    for layer, of_layer in expected.scores.items():
        for kind, values in of_layer.items():
            torch.testing.assert_close(found.scores[layer][kind], values, rtol=1e-9, atol=0)


def descent(model, ids, layers, steps, averaged, smoothing, step_size, threshold):
    """Mean displacement of the weights over -step_size, {layer: {member: [out, in]}}, by autograd of the whole model.

    The loss holds the term of the envelope, as a function of the displacement that is differentiated.
    """
    members = ("q_proj", "k_proj", "v_proj", "o_proj")
    names = [f"self_attn.{name}" for name in members] + [
        f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")
    ]
    places = [(index, name) for index in layers for name in names]
    weights = {place: decoder_layers(model)[place[0]].get_submodule(place[1]).weight.detach() for place in places}
    delta = {place: torch.zeros_like(weight) for place, weight in weights.items()}
    taken, vanished = [], 0
    for _ in range(steps):
        leaves = {place: one.clone().requires_grad_() for place, one in delta.items()}
        values = {
            f"model.layers.{index}.{name}.weight": weights[index, name] + leaves[index, name] for index, name in places
        }
        logits = torch.func.functional_call(model, values, (ids,), {"use_cache": False}).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        envelope = loss + sum(one.square().sum() for one in leaves.values()) / (2 * smoothing)
        slopes = torch.autograd.grad(envelope, list(leaves.values()))
        for place, slope in zip(places, slopes, strict=True):
            moved = delta[place] - step_size * slope
            for row in moved:
                size = (row**2).mean().sqrt()
                row.mul_(max(0.0, 1 - step_size * threshold / float(size)))
                vanished += not row.any()
            delta[place] = moved
        taken.append(dict(delta))
    mean = {
        place: sum(one[place] for one in taken[-averaged:]) / (-step_size * len(taken[-averaged:])) for place in places
    }
    return {index: {name: mean[index, name] for name in names} for index in layers}, vanished


@pytest.mark.parametrize(("averaged", "smoothing"), [(1, 0.2), (3, 0.2), (9, 1e-2)])
def test_a_descent_by_hand(averaged, smoothing):
    model, ids, layers = tiny(groups=2, dtype=torch.float64), tokens(3, 8), [1, 2]
    options = {"steps": 4, "averaged": averaged, "smoothing": smoothing, "step_size": 2e-3, "threshold": 1e-2}
    with Double():
        found = prune(model, "moreau", ids, structure_ratio=0.25, layers=layers, noise=0, **options).scores
        mean, vanished = descent(model, ids, layers, **options)
    assert vanished > 0  # else the threshold was too small to be seen

    def by_vector(name, matrix):
        return matrix.T if name.endswith(("o_proj", "down_proj")) else matrix

    gradients = {i: {name: by_vector(name, one)[None] for name, one in of.items()} for i, of in mean.items()}
    expected = expected_scores(model, gradients, lambda weight, slopes: (weight * slopes[0]).abs().sum(1))
    for layer in layers:
        for kind, values in expected[layer].items():
            assert close(found[layer][kind], values, 1e-9)


def test_noise_is_drawn_anew_in_each_step_and_the_same_forward_and_backward(monkeypatch):
    model, ids, seen = tiny(channels=96, dtype=torch.float64), tokens(3, 8), []
    original = module._Descent._perturbed

    def recorded(self, index):
        layer, weights = original(self, index)
        seen.extend((index, path, weight.detach().clone()) for path, weight in weights.items())
        return layer, weights

    monkeypatch.setattr(module._Descent, "_perturbed", recorded)
    prune(model, "moreau", ids, structure_ratio=0.25, layers=[1, 2], steps=2, step_size=1e-12, noise=0.05)
    assert len(seen) == 2 * 2 * 2 * 7  # steps, forward and backward, layers, weights
    ratios = []
    for layer in (1, 2):
        for path in {path for _, path, _ in seen}:
            first, again, second, also = (weight for index, name, weight in seen if (index, name) == (layer, path))
            assert torch.equal(first, again) and torch.equal(second, also) and not torch.equal(first, second)
            weight = decoder_layers(model)[layer].get_submodule(path).weight.detach()
            ratios += [((one - weight) / weight.abs()).flatten() for one in (first, second)]
    ratios = torch.cat(ratios)
    count = len(ratios)  # of standard normal numbers: five standard errors of their mean and deviation
    assert abs(ratios.mean()) < 5 * 0.05 / count**0.5
    assert abs(ratios.std() - 0.05) < 5 * 0.05 / (2 * count) ** 0.5


def test_a_descent_that_diverges():
    with pytest.raises(UserError, match=r"moreau's step \d+ (has|is)|the loss of moreau's step \d+ is (nan|inf)"):
        prune(tiny(), "moreau", tokens(3, 8), structure_ratio=0.25, layers=[1], step_size=1e30, steps=10)


def test_a_threshold_that_leaves_nothing():
    with pytest.raises(UserError, match="moreau's threshold of 1000 leaves no displacement in any row"):
        prune(tiny(), "moreau", tokens(3, 8), structure_ratio=0.25, layers=[1], threshold=1000)
