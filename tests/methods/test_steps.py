"""Pruning in steps: each cut is decided on the smaller model, and all of them together are one plan."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reproducer import prune
from reproducer.errors import UserError
from reproducer.models.architecture import parameter_count
from tests.helpers import examples, logits, masked, tiny, tokens


@given(st.integers(2, 4), st.integers(0, 5))
@examples(8)
def test_steps_are_cuts_of_the_smaller_model(steps, seed):
    """By hand: the scores on the model that is left say what goes next; units by their place in the whole."""
    model, ids = tiny(seed=seed, heads=8, hidden=64, channels=40, dtype=torch.float64), tokens(3, 8)
    plan = prune(model, "llm-pruner-e2", ids, structure_ratio=0.5, layers=[1, 2], in_steps=steps)
    left = {kind: {index: list(range(count)) for index in (1, 2)} for kind, count in (("heads", 8), ("channels", 40))}
    smaller = model
    for step in range(1, steps + 1):
        cut = prune(smaller, "llm-pruner-e2", ids, structure_ratio=0.5, layers=[1, 2])  # for its scores
        scores = cut.scores
        for kind, of_kind in left.items():
            for index, units in of_kind.items():
                count = {"heads": 8, "channels": 40}[kind]
                gone = count - len(units)
                more = int(0.5 * step / steps * count + 1e-9) - gone
                worst = torch.argsort(scores[index][kind], stable=True)[:more].tolist()
                of_kind[index] = [unit for place, unit in enumerate(units) if place not in worst]
        smaller = type(plan)(plan.units, {kind: dict(of_kind) for kind, of_kind in left.items()}).apply(model)
    assert plan.kept_heads == left["heads"] and plan.kept_channels == left["channels"]


def test_each_step_may_have_samples_of_its_own():
    model = tiny(channels=60)
    ids = tokens(6, 8).view(2, 3, 8)
    cut = {"structure_ratio": 0.4, "layers": [0, 1, 2], "in_steps": 2}
    apart = prune(model, "llm-pruner-e1", ids, **cut)
    same = prune(model, "llm-pruner-e1", ids[0], **cut)
    assert apart != same == prune(model, "llm-pruner-e1", torch.stack([ids[0], ids[0]]), **cut)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("settings", [{"scope": "global"}, {"heads": "pooled"}, {}])
def test_the_ratio_is_reached_and_what_is_gone_stays_gone(settings, groups):
    model, ids = tiny(groups=groups, channels=64, hidden=48), tokens(3, 8)
    cut = {"ratio": 0.24, "layers": [0, 1, 2], **settings}
    plan = prune(model, "llm-pruner-e2", ids, in_steps=3, **cut)
    removed = 1 - plan.parameters_left(model) / parameter_count(model)
    assert removed == pytest.approx(0.24, abs=0.005)
    for index in plan.layers:
        for kind in ("heads", "channels"):
            kept, scores = plan.kept[kind].get(index), plan.scores[index][kind]
            assert all(torch.isfinite(scores[kept])), "nothing comes back"
            assert len(scores) == plan.units[index][kind]
    ids = tokens(2, 6)
    torch.testing.assert_close(logits(plan.apply(model), ids), logits(masked(model, plan), ids), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_done_in_steps():
    model, ids = tiny(), tokens(3, 8)
    with pytest.raises(UserError, match=r"step 1 of 20: a ratio of 0\.025 removes nothing.*\n.*take fewer steps"):
        prune(model, "magnitude", structure_ratio=0.5, layers=[1], in_steps=20)
    with pytest.raises(UserError, match="step 3 of 10: it removes no more than the one before it"):
        prune(tiny(channels=60), "magnitude", structure_ratio=0.5, layers=[1], in_steps=10, round_to=4)
    with pytest.raises(UserError, match="flap decides over all layers by itself; it cannot be asked for in 2 steps"):
        prune(model, "flap", ids, ratio=0.2, in_steps=2)
    with pytest.raises(UserError, match="a cut in 0 steps"):
        prune(model, "magnitude", ratio=0.2, in_steps=0)
    with pytest.raises(UserError, match=r"calibration has dtype torch.int64 and shape \(3, 3, 8\)"):
        prune(model, "llm-pruner-e1", tokens(9, 8).view(3, 3, 8), ratio=0.2, in_steps=2)
    with pytest.raises(UserError, match=r"calibration has dtype torch.int64 and shape \(1, 9, 8\)"):
        prune(model, "llm-pruner-e1", tokens(9, 8)[None], ratio=0.2)
