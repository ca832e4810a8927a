"""A uniform cut: layers of one shape, which every family's own class loads."""

from __future__ import annotations

import pytest
import torch

from reproducer import export, prune
from reproducer.errors import UserError
from tests.families import SIX, ZOO, family_model
from tests.helpers import tokens


@pytest.mark.parametrize("name", SIX)
@pytest.mark.parametrize("ratio", [0.1, 0.16])
def test_the_familys_own_class_loads_it_without_our_code(name, ratio, tmp_path):
    model = family_model(name.split()[0], **ZOO[name])
    plan = prune(model, "magnitude", ratio=ratio, scope="uniform", round_to=4)
    assert plan.layers == list(plan.units)
    (channels,) = {len(kept) for kept in plan.kept_channels.values()}
    assert channels % 4 == 0 and len({len(kept) for kept in plan.kept_heads.values()}) == 1
    export(model, plan, tmp_path / "small")
    assert not list((tmp_path / "small").glob("modeling_*.py"))


def test_it_comes_as_near_to_the_ratio_as_its_blocks_allow():
    """In steps too, of which the ones before the last are not rounded."""
    model = family_model("llama", layers=4, channels=96)
    total, block = sum(p.numel() for p in model.parameters()), 4 * 16 * 3 * 32
    for steps in (1, 3):
        ids = tokens(2, 12, vocab=61)
        plan = prune(model, "llm-pruner-e1", ids, ratio=0.3, scope="uniform", round_to=16, in_steps=steps)
        assert abs(plan.parameters_removed(model) - 0.3 * total) <= block / 2
        assert {len(kept) % 16 for kept in plan.kept_channels.values()} == {0}


def test_what_cannot_be_uniform_is_refused(uneven_model):
    uniform = {"ratio": 0.1, "scope": "uniform"}
    with pytest.raises(UserError, match="differ already"):
        prune(uneven_model, "magnitude", **uniform)
    with pytest.raises(UserError, match="some layers are not pruned"):
        prune(family_model("llama"), "magnitude", layers=[1], **uniform)
    with pytest.raises(UserError, match="decides by itself"):
        prune(family_model("llama"), "flap", torch.ones(2, 8, dtype=torch.long), **uniform)
