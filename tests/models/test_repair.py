"""The least-squares repair against what it must do on any model, and against an independent computation."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from reproducer import prune
from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of
from reproducer.models.repair import repair
from reproducer.models.walk import LayerWalk
from tests.families import SIX, VOCABULARY, ZOO, Double, family_model, layers_of

IDS = torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (40, 16)))
FRESH = torch.from_numpy(np.random.default_rng(1).integers(0, VOCABULARY, (40, 16)))


def stream_error(model, dense, ids, layers=None) -> float:
    """Squared difference of both streams behind the last of the first `layers` layers, over the dense one's square."""
    walks = LayerWalk(model, ids.shape[1]), LayerWalk(dense, ids.shape[1])
    with torch.no_grad():
        pruned = full = walks[0].embed(ids)
        for index in range(len(layers_of(dense)) if layers is None else layers):
            pruned, full = walks[0].run(index, pruned), walks[1].run(index, full)
    return ((pruned - full).square().sum() / full.square().sum()).item()


def cut(model):
    return prune(model, "magnitude", structure_ratio=0.3, layers=[1, 2]).apply(model)


@pytest.mark.parametrize("name", ZOO)
def test_the_stream_comes_closer_to_the_dense_one_in_every_layer_of_every_family(name):
    dense = family_model(name, **ZOO[name])
    model = cut(dense)
    unrepaired = stream_error(model, dense, FRESH)
    with Double():
        old = {key: weight.clone() for key, weight in model.named_parameters()}
        fitted = []
        for result in repair(model, dense, IDS):
            fitted.append(result.layer)
            changed = next(key for key in result.tensors if architecture_of(model).output("channels") in key)
            after, weight = stream_error(model, dense, IDS, result.layer + 1), model.get_parameter(changed)
            new = weight.detach().clone()
            with torch.no_grad():
                weight.copy_(old[changed])
            before = stream_error(model, dense, IDS, result.layer + 1)
            with torch.no_grad():
                weight.copy_(new)
            assert after <= before * (1 + 1e-9)
        assert fitted == [1, 2]
    assert stream_error(model, dense, FRESH) < unrepaired
    names = {key for key, weight in model.named_parameters() if not torch.equal(weight, old[key])}
    outputs = [architecture_of(model).output(kind) for kind in ("heads", "channels")]
    assert names <= {key for key in old if any(f"{output}.weight" in key for output in outputs)}


@pytest.mark.parametrize("name", SIX)
def test_with_every_unit_kept_nothing_changes(name):
    dense = family_model(name, **ZOO[name])
    assert list(repair(copy.deepcopy(dense), dense, IDS)) == []
    nearly = copy.deepcopy(dense)
    with torch.no_grad():
        next(layers_of(nearly)[0].parameters()).mul_(1 + 1e-12)  # not the same layer, so it is fitted
    for result in repair(nearly, dense, IDS):
        for key, tensor in result.tensors.items():
            torch.testing.assert_close(tensor, dense.get_parameter(key), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["llama biased", "gpt_neox", "opt", "granite"])
def test_where_a_cut_channel_has_a_twin_the_dense_outputs_come_back(name):
    dense = family_model(name, **ZOO[name])
    plan = prune(dense, "random", structure_ratio=0.5, layers=[1])
    channels = plan.units[1]["channels"]
    with torch.no_grad():
        for member in architecture_of(dense).kind("channels").members[:-1]:
            linear = layers_of(dense)[1].get_submodule(member.module)
            linear.weight[channels // 2 :] = linear.weight[: channels // 2]
            if linear.bias is not None:
                linear.bias[channels // 2 :] = linear.bias[: channels // 2]
    plan.kept_heads[1][:] = range(plan.units[1]["heads"])
    plan.kept_channels[1][:] = range(channels // 2)
    with Double(), torch.no_grad():
        model = plan.apply(dense)
        assert (model(FRESH).logits - dense(FRESH).logits).abs().max() > 1e-3
        assert len(list(repair(model, dense, IDS, ridge=0))) == 2
        torch.testing.assert_close(model(FRESH).logits, dense(FRESH).logits, rtol=1e-7, atol=1e-7)


def test_the_first_projection_is_ridge_regression_and_batches_do_not_matter():
    dense = family_model("llama")
    models = [cut(dense), cut(dense)]
    path, seen = "model.layers.1.self_attn.o_proj", {}
    for key, model in (("pruned", models[0]), ("dense", dense)):
        hook = model.get_submodule(path).register_forward_hook(lambda _, x, y, key=key: seen.update({key: (x[0], y)}))
        with torch.no_grad():
            model(IDS)
        hook.remove()
    inputs = seen["pruned"][0].flatten(0, 1).numpy()
    lacking = (seen["dense"][1] - seen["pruned"][1]).flatten(0, 1).numpy()  # layer 0 is not cut
    damping = 0.3 * np.square(inputs).sum(0).mean()
    rows = np.concatenate([inputs, np.sqrt(damping) * np.eye(inputs.shape[1])])
    change, *_ = np.linalg.lstsq(rows, np.concatenate([lacking, np.zeros((inputs.shape[1], lacking.shape[1]))]))
    expected = models[0].get_parameter(f"{path}.weight").detach().numpy() + change.T
    for model, tokens in zip(models, (16, 400), strict=True):
        list(repair(model, dense, IDS, ridge=0.3, batch_tokens=tokens))
    np.testing.assert_allclose(models[0].get_parameter(f"{path}.weight").detach().numpy(), expected, atol=1e-9)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_a_model_that_lost_a_layer_is_repaired_by_the_ones_around_it():
    dense = family_model("llama", layers=4)
    plan = prune(dense, "shortened-llama", IDS[:4], ratio=0.2, keep_first=1, keep_last=1)
    whole = plan.apply(dense)
    better = prune(dense, "shortened-llama", IDS[:4], ratio=0.2, keep_first=1, keep_last=1, repair=IDS).apply(dense)
    errors = []
    for model in (whole, better):
        with torch.no_grad():
            errors.append((model.model(FRESH)[0] - dense.model(FRESH)[0]).square().mean().item())
    assert len(layers_of(whole)) == 3 and errors[1] < errors[0]


def test_what_cannot_be_fitted_is_refused_or_said():
    dense = family_model("llama", channels=80)
    with pytest.raises(UserError, match=r"16 tokens for .* inputs.*ridge of 0"):
        list(repair(cut(dense), dense, IDS[:1], ridge=0))
    said: list[str] = []
    list(repair(cut(dense), dense, IDS[:1], say=said.append))
    assert "more samples" in said[0]
    broken = copy.deepcopy(dense)
    with torch.no_grad():
        layers_of(broken)[1].get_submodule("mlp.up_proj").weight.fill_(float("inf"))
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.down_proj are not finite"):
        list(repair(broken, dense, IDS))
