"""OBS against solving each least-squares problem anew, and its Fisher weights against plain hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from reproducer import prune
from reproducer.methods.obs import removal_costs
from reproducer.models.architecture import architecture_of, layer_shape, linear_at
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


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gemma2", "opt", "gpt_neox"])
def test_fisher_costs_are_those_of_weights_that_count_by_the_gradient_of_their_output(family):
    """Gradients and inputs of each projection by hooks on the model itself, in float64, one sample at a time."""
    model = family_model(family).double()
    architecture = architecture_of(model)
    layers = architecture.decoder_layers(model)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (6, 16)))
    plan = prune(model, "obs-fisher", ids, structure_ratio=0.5, layers=[1, 2], together=1)
    for index in (1, 2):
        for kind in architecture.kinds:
            linear = linear_at(layers[index], kind.output)
            inputs, gradients = [], []

            def keep(module, arguments, output, inputs=inputs, gradients=gradients):
                inputs.append(arguments[0].detach().flatten(0, -2))
                output.register_hook(lambda gradient: gradients.append(gradient.flatten(0, -2)))

            hook = linear.register_forward_hook(keep)
            for sample in ids[:, None]:
                cross_entropy(model(input_ids=sample).logits[0, :-1], sample[0, 1:]).backward()
            hook.remove()
            weights = torch.cat(gradients).square().mean(0).sqrt()[:, None] * linear.weight.detach()
            seen = torch.cat(inputs)
            expected = removal_costs(
                weights, seen.T @ seen, layer_shape(layers[index], architecture).counts[kind.name], 0.03
            )
            torch.testing.assert_close(plan.scores[index][kind.name].double(), expected, rtol=1e-6, atol=0)
