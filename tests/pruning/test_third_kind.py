"""A third kind of unit is a declaration: a model with a side branch of its own is pruned, stored and read like any."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from reproducer import Plan, prune
from reproducer.models import architecture
from reproducer.models.declaration import Kind, Member
from reproducer.models.families import CHANNELS, FAMILIES, HEADS, LLAMA
from reproducer.pruning.counting import count
from tests.helpers import close, decoder_layers, logits, tiny, tokens

RANKS = Kind("ranks", (Member("mlp.side.down", 0, "single"), Member("mlp.side.up", 1, "single")), fine=True)
BRANCHED = replace(LLAMA, family="Branched", model_types=("branched",), kinds=(HEADS, CHANNELS, RANKS))


class Side(nn.Module):
    """A narrow branch beside the MLP."""

    def __init__(self, hidden, ranks):
        super().__init__()
        self.down, self.up = nn.Linear(hidden, ranks), nn.Linear(ranks, hidden, bias=False)

    def forward(self, hidden):
        return self.up(torch.tanh(self.down(hidden)))


@pytest.fixture
def branched(monkeypatch):
    monkeypatch.setattr(architecture, "FAMILIES", (*FAMILIES, BRANCHED))
    model = tiny(layers=4, groups=2, dtype=torch.float64)
    model.config.model_type = "branched"
    for index, layer in enumerate(decoder_layers(model)):
        layer.mlp.side = side = Side(32, 12).double()
        layer.mlp.register_forward_hook(lambda _, inputs, output, side=side: output + side(inputs[0]))
        with torch.no_grad():
            for parameter in side.parameters():
                values = torch.arange(parameter.numel(), dtype=torch.float64) + index
                parameter.copy_(torch.sin(values * values).view(parameter.shape) / 2)
    return model


@pytest.mark.parametrize("method", ["llm-pruner-e2", "wanda", "flap", "saap", "gprune-llm"])
@pytest.mark.parametrize("ratio", [{"ratio": 0.2}, {"structure_ratio": 0.25}], ids=["ratio", "structure ratio"])
def test_it_is_scored_and_cut_with_the_others(branched, method, ratio, tmp_path):
    ids = tokens(4, 12)
    plan = prune(branched, method, ids, layers=[1, 2], heads="pooled", **ratio)
    assert plan.scores[1].keys() == plan.kept.keys() == {"heads", "channels", "ranks"}
    assert all(1 <= len(plan.kept["ranks"][index]) <= 12 for index in (1, 2))
    assert sum(12 - len(plan.kept["ranks"][index]) for index in (1, 2)) > 0
    plan.save(tmp_path / "plan")
    assert Plan.load(tmp_path / "plan") == plan


def test_sliced_equals_masked(branched):
    ids = tokens(2, 9)
    plan = prune(branched, "magnitude", structure_ratio=0.5, layers=[0, 2], heads="local")
    assert [plan.counts(index)["ranks"] for index in range(4)] == [6, 12, 6, 12]
    smaller = plan.apply(branched)
    with torch.no_grad():
        for index, layer in enumerate(decoder_layers(branched)):
            for path, kept, width in (
                ("self_attn.o_proj", plan.kept_heads, 16),
                ("mlp.down_proj", plan.kept_channels, 1),
                ("mlp.side.up", plan.kept["ranks"], 1),
            ):
                weight = layer.get_submodule(path).weight
                for unit in set(range(weight.shape[1] // width)) - set(kept.get(index, range(weight.shape[1]))):
                    weight[:, unit * width : (unit + 1) * width] = 0
    removed = sum(p.numel() for p in branched.parameters()) - sum(p.numel() for p in smaller.parameters())
    assert plan.parameters_removed(branched) == removed == count(branched).parameters - count(branched, plan).parameters
    assert close(logits(smaller, ids), logits(branched, ids), 1e-6)  # norms and softmax are computed in float32
