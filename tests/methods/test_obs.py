"""OBS against solving each least-squares problem anew."""

from __future__ import annotations

import numpy as np
import torch

from reproducer import prune
from reproducer.methods.obs import removal_costs
from tests.families import VOCABULARY, family_model


def error_without(weight, gram, kept):
    """Half the smallest squared error of the outputs that the inputs `kept` alone can give."""
    best = weight @ gram[:, kept] @ np.linalg.inv(gram[np.ix_(kept, kept)]) if len(kept) else np.zeros((len(weight), 0))
    change = weight.copy()
    change[:, kept] -= best
    return np.trace(change @ gram @ change.T) / 2


def test_costs_are_what_the_smallest_error_grows_by_when_the_best_unit_goes():
    generator = np.random.default_rng(0)
    weight, inputs = generator.normal(size=(5, 12)), generator.normal(size=(40, 12)) @ generator.normal(size=(12, 12))
    gram = inputs.T @ inputs
    damped = gram + 0.01 * gram.diagonal().mean() * np.eye(12)
    for units in (12, 4):
        width = 12 // units
        costs = removal_costs(torch.from_numpy(weight), torch.from_numpy(gram), units, 0.01).numpy()
        left, before, highest = list(range(units)), 0.0, 0.0
        while left:
            errors = {}
            for unit in left:
                kept = [unit_ * width + i for unit_ in left if unit_ != unit for i in range(width)]
                errors[unit] = error_without(weight, damped, kept)
            unit = min(errors, key=errors.__getitem__)
            highest = max(highest, errors[unit] - before)
            np.testing.assert_allclose(costs[unit], highest, rtol=1e-8)
            before = errors[unit]
            left.remove(unit)


def test_of_twin_channels_one_goes_first_and_the_choice_does_not_depend_on_batches():
    model = family_model("llama")
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (200, 16)))
    with torch.no_grad():
        for name in ("gate_proj", "up_proj"):
            weight = model.model.layers[1].mlp.get_submodule(name).weight
            weight[12:] = weight[:12]
    plan = prune(model, "obs", ids, structure_ratio=0.5, layers=[1], ridge=1e-6)
    assert sorted(channel % 12 for channel in plan.kept_channels[1]) == list(range(12))
    at_once = prune(model, "obs", ids, structure_ratio=0.5, layers=[1], ridge=1e-6, together=2)
    assert len(at_once.kept_channels[1]) == 12
