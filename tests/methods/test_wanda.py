"""Wanda against its formula, written down for one layer."""

import pytest
import torch

from reproducer import prune
from tests.families import family_model, layers_of
from tests.helpers import tokens
from tests.methods.inputs import ends, inputs_of


@pytest.mark.parametrize(
    ("kind", "units"), [("llama", {"groups": 2}), ("phi3", {"groups": 2, "hidden": 48}), ("opt", {})], ids=str
)
def test_one_layer_by_hand(kind, units):
    model, ids = family_model(kind, **units), tokens(3, 7)
    plan = prune(model, "wanda", ids, structure_ratio=0.25, layers=[1])
    for kind, path in ends(model).items():
        weight = layers_of(model)[1].get_submodule(path).weight.detach()
        norm = inputs_of(model, ids, 1, path).norm(dim=0)
        channels = torch.stack([(weight[:, j].abs() * norm[j]).mean() for j in range(weight.shape[1])])
        count = len(plan.scores[1][kind])
        expected = torch.stack([part.sum() for part in channels.chunk(count)])
        torch.testing.assert_close(plan.scores[1][kind], expected, rtol=1e-12, atol=0)
