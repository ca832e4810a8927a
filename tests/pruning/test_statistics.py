"""Statistics of gradients and weights against N separate backward passes over the whole model."""

import copy
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reproducer.errors import UserError
from reproducer.models.walk import LayerWalk
from reproducer.pruning.collect import Limits, collect
from reproducer.pruning.reduction import reduce_gradients
from reproducer.pruning.statistics import Element, First, InputNorm, InputVariance, Power, Second
from tests.families import Double
from tests.helpers import (
    by_vector,
    close,
    decoder_layers,
    examples,
    orders,
    rand,
    randn,
    sample_gradients,
    shapes,
    tiny,
    tokens,
)

GRADIENTS = {First(), Second(), Element(0), Element(1), Element(1e4)}
ALL = GRADIENTS | {Power(2), Power(1), Power(3)}


# What a statistic may be off by.


def terms_of(wanted, weight, gradients):
    """{statistic: (values, sizes)} of vectors [vectors, length] from gradients [N, vectors, length].

    A size is the sum of what cancels in the value.
    """
    s1, s2 = orders(weight, gradients)
    size, found = (weight * gradients).abs().mean(0), {}
    for statistic in wanted:
        match statistic:
            case First():
                found[statistic] = s1.sum(1), size.sum(1)
            case Second():
                found[statistic] = s2.sum(1), s2.sum(1)
            case Element(factor):
                found[statistic] = (s1 - factor / 2 * s2).abs().sum(1), (size + factor / 2 * s2).sum(1)
            case Power(p):
                found[statistic] = ((weight.abs() ** p).sum(1),) * 2
    return found


def textbook(model, ids, layers, wanted):
    """{(layer, module, statistic): (values, sizes)} in float64, from weight-sized gradients of N backward passes."""
    exact, found = copy.deepcopy(model).double(), {}
    with Double():
        of_samples = sample_gradients(exact, ids, layers)
    for index, members in of_samples.items():
        for name, gradients in members.items():
            weight = by_vector(name, decoder_layers(exact)[index].get_submodule(name).weight.detach())
            terms = terms_of(wanted, weight, gradients)
            found |= {(index, name, statistic): of_statistic for statistic, of_statistic in terms.items()}
    return found


def nudged(model, seed):
    """`model` in float64 with every parameter one unit roundoff of float32 larger or smaller."""
    twin, generator = copy.deepcopy(model).double(), np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1 + ROUNDOFF * (2 * rand(*parameter.shape, seed=generator).round() - 1))
    return twin


ROUNDOFF = 2.0**-24
SLACK = 64  # of 12,000 worst cases of a module and statistic, half were off by less than 1, the worst by 9


def assert_exact(ours, model, ids, layers, wanted):
    """`ours` are the textbook's statistics, as exactly as the dtype of `model` can tell.

    To first order, rounding moves a statistic as rounded weights would: by its condition times the unit roundoff. So
    it is looked how far it moves (the most of four times) when all weights of a float64 model move by one roundoff. To
    that comes the rounding of the terms that cancel in it, the largest of a layer's: where the true gradient is 0, as
    that of queries and keys of equal tokens, rounding of the others' size remains.
    """
    expected = textbook(model, ids, layers, wanted)
    moved = [textbook(nudged(model, seed), ids, layers, wanted) for seed in range(4)]
    units = torch.finfo(next(model.parameters()).dtype).eps / 2 / ROUNDOFF
    assert ours.keys() == set(layers)
    for (index, name, statistic), (values, _) in expected.items():
        found = ours[index][name][statistic]
        assert found.shape == values.shape
        distance = torch.stack([(twin[index, name, statistic][0] - values).abs() for twin in moved]).amax(0)
        largest = max(float(expected[index, member, statistic][1].max()) for member in ours[index])
        error = (found.double() - values).abs()
        assert (error <= SLACK * units * (distance + ROUNDOFF * largest)).all(), (index, name, statistic)


def assert_same(ours, expected, tolerance):
    """Within `tolerance`, where a statistic is not all but zero beside the layer's largest (then it is rounding)."""
    assert ours.keys() == expected.keys()
    for index, members in expected.items():
        assert ours[index].keys() == members.keys()
        for statistic in next(iter(members.values())):
            floor = 1e-3 * tolerance * max(float(values[statistic].abs().max()) for values in members.values())
            for name, values in members.items():
                assert ours[index][name].keys() == values.keys()
                found, value = ours[index][name][statistic], values[statistic]
                # A signed sum is rounded as its terms are.
                size = values[Element(0)] if isinstance(statistic, First) and Element(0) in values else value.abs()
                assert found.shape == value.shape and found.dtype == value.dtype
                assert ((found - value).abs() <= tolerance * size + floor).all(), (index, name, statistic)


LIMITS = st.builds(
    Limits,
    activations=st.sampled_from([0, 1, 5000, 2**29]),
    chunk=st.one_of(st.none(), st.sampled_from([1, 64, 1000, 2**20])),
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])


@DTYPES
@examples(15)
@given(shape=shapes(), samples=st.integers(1, 5), length=st.integers(2, 9), limits=LIMITS, data=st.data())
def test_equal_n_backward_passes(dtype, shape, samples, length, limits, data):
    model, ids = tiny(**shape, dtype=dtype).to(dtype), tokens(samples, length, seed=shape["seed"])
    layers = data.draw(st.sets(st.integers(0, shape["layers"] - 1), min_size=1))
    with Double():
        ours = collect(model, ids, layers, ALL, limits)
    assert all(v.dtype == dtype for members in ours.values() for of in members.values() for v in of.values())
    assert_exact(ours, model, ids, layers, ALL)


def test_equal_n_backward_passes_for_every_kind(zoo_model):
    ids = tokens(3, 11)
    assert_exact(collect(zoo_model, ids, [0, 1, 2], ALL), zoo_model, ids, [0, 1, 2], ALL)


@DTYPES
@examples(10)
@given(shape=shapes(), samples=st.integers(1, 4), limits=LIMITS)
def test_each_sample_of_one_pass_is_that_sample_alone(dtype, shape, samples, limits):
    model, ids = tiny(**shape, dtype=dtype).to(dtype), tokens(samples, 6, seed=shape["seed"])
    layers, wanted = range(shape["layers"]), {First(), Second()}
    with Double():
        apart = collect(model, ids, layers, wanted, limits, per_sample=True)
    for place, sample in enumerate(ids):
        of_sample = {
            index: {name: {one: values[place] for one, values in of.items()} for name, of in members.items()}
            for index, members in apart.items()
        }
        assert_exact(of_sample, model, sample[None], layers, wanted)


@st.composite
def factors(draw):
    """Weight [vectors, length], left [samples, tokens, vectors] and right [samples, tokens, length], of one dtype."""
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    samples, tokens, vectors, length = (draw(st.integers(1, most)) for most in (4, 20, 12, 20))
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    shapes = (vectors, length), (samples, tokens, vectors), (samples, tokens, length)
    return tuple(randn(*shape, seed=generator, dtype=dtype) for shape in shapes)


@examples(40)
@given(
    factors=factors(),
    chunk=st.sampled_from([1, 64, 1000, 2**20]),
    wanted=st.sets(st.sampled_from(sorted(GRADIENTS, key=repr)), min_size=1),
)
def test_reduction_is_off_by_rounding_alone(factors, chunk, wanted):
    """Higham's bounds: a sum of n terms is off by n roundoffs of the sum of their sizes."""
    weight, left, right = factors
    found = reduce_gradients(weight, left, right, wanted, chunk)
    weight, left, right = (tensor.double() for tensor in factors)
    (samples, count, _), (_, length) = left.shape, weight.shape
    gradients = left.transpose(1, 2) @ right
    of_product = (samples * count + 2) * torch.finfo(factors[0].dtype).eps * (left.abs().transpose(1, 2) @ right.abs())
    off1 = (weight.abs() * of_product).mean(0)  # of s1, element by element
    off2 = weight**2 * (2 * gradients.abs() * of_product + of_product**2).mean(0)  # of s2
    for statistic, (values, sizes) in terms_of(wanted, weight, gradients).items():
        off = {First(): off1, Second(): off2}.get(statistic)
        off = off1 + statistic.factor / 2 * off2 if off is None else off
        bound = off.sum(1) + (samples + length + 8) * 2.0**-23 * (sizes + off.sum(1))
        assert found[statistic].dtype == torch.float32
        assert ((found[statistic].double() - values).abs() <= bound).all(), statistic


def test_a_walk_and_hidden_states_of_the_caller():
    model, ids = tiny(layers=4), tokens(3, 6)
    walk = LayerWalk(model, 6)
    with torch.no_grad():
        below = walk.run(1, walk.run(0, walk.embed(ids)))
    kept = below.clone()
    assert_same(collect(model, ids, [2, 3], ALL, walk=walk, below=below), collect(model, ids, [2, 3], ALL), 1e-5)
    assert torch.equal(below, kept) and not below.requires_grad


@pytest.mark.parametrize("statistic", [Element(0), InputVariance(), InputNorm(), Power()], ids=repr)
def test_what_is_not_additive_is_not_given_for_each_sample(statistic):
    with pytest.raises(ValueError, match=re.escape(repr(statistic))):
        collect(tiny(), tokens(2, 6), [1], {First(), statistic}, per_sample=True)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_works_whatever_the_callers_gradient_mode(context):
    model, ids = tiny(), tokens(2, 6)
    expected = collect(model, ids, [1], {First(), Second()})
    with context():
        found = collect(model, ids, [1], {First(), Second()})
    for name in expected[1]:
        assert all(torch.equal(found[1][name][s], expected[1][name][s]) for s in (First(), Second()))


# Cost: one forward, one backward, nothing weight-sized.


def test_nothing_weight_sized_is_made():
    """With small chunks no operation's result has the size of a weight, unless it is one."""
    model, ids = tiny(hidden=64, head_dim=16, channels=80, vocab=13), tokens(2, 3, vocab=13)
    own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for output in result if isinstance(result, tuple | list) else [result]:
                if isinstance(output, torch.Tensor) and output.untyped_storage().data_ptr() not in own:
                    sizes.append(output.untyped_storage().nbytes() // output.element_size())
            return result

    with Watch():
        collect(model, ids, [0, 1, 2], GRADIENTS, Limits(chunk=4 * 64 * 4))
    assert len(sizes) > 1000  # the backward pass was watched too
    assert max(sizes) <= 64 * 64 / 4


def test_a_samples_share_of_memory_is_released_layer_by_layer():
    """Without room for activations at most two layers' graphs are alive at a time."""
    model, alive, most = tiny(layers=6), set(), 0

    class Pass(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, place):
            ctx.save_for_backward(hidden)
            ctx.place = place
            return hidden.clone()

        @staticmethod
        def backward(ctx, gradient):
            alive.discard(ctx.place)
            return gradient, None

    def watch(place):
        def hook(module, arguments, output):
            nonlocal most
            if output.requires_grad:
                alive.add(place)
                most = max(most, len(alive))
                return Pass.apply(output, place)
            return output

        return hook

    for place, layer in enumerate(decoder_layers(model)):
        layer.register_forward_hook(watch(place))
    collect(model, tokens(3, 6), range(6), ALL, Limits(activations=0))
    assert 1 <= most <= 2 and not alive


# When things go wrong.


class Poison(torch.nn.Module):
    """An activation whose gradient, or value, is not finite for one sample."""

    def __init__(self, sample, value, backward):
        super().__init__()
        self.sample, self.value, self.backward_only = sample, value, backward

    def forward(self, features):
        stain = torch.zeros_like(features)
        stain[self.sample] = self.value
        if not self.backward_only:
            return features + stain
        features = features * 1.0
        if features.requires_grad:
            features.register_hook(lambda gradient: gradient + stain)
        return features


def prepared(sample, layer, value, backward):
    model = copy.deepcopy(tiny(layers=4))
    decoder_layers(model)[layer].mlp.act_fn = Poison(sample, value, backward)
    model.requires_grad_(True)
    next(model.parameters()).requires_grad_(False)
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("layer", [1, 3])
def test_a_non_finite_gradient_names_sample_and_layer(value, layer):
    model = prepared(2, layer, value, backward=True)
    with pytest.raises(UserError, match=rf"sample 2 .*layer {layer}\b"):
        collect(model, tokens(4, 5), [1, 2, 3], {Element(0), Second()})


@pytest.mark.parametrize("layer", [0, 2])
def test_a_non_finite_loss_names_sample_and_layer(layer):
    model = prepared(1, layer, float("nan"), backward=False)
    with pytest.raises(UserError, match=rf"sample 1\b.*layer {layer}\b"):
        collect(model, tokens(4, 5), [1, 3], {Element(0)})


def test_the_model_is_as_it_was_after_an_error():
    model = prepared(2, 2, float("nan"), backward=True)
    model.train()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(UserError):
        collect(model, tokens(4, 5), [1, 2, 3], {Second()})
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("member", ["self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj"])
@pytest.mark.parametrize("wanted", [Power(2), Second(), Element(0)], ids=repr)
def test_a_non_finite_weight_is_named_and_never_scored(member, wanted):
    """A NaN would sort above all numbers, so its unit would stay, in silence."""
    model = tiny()
    decoder_layers(model)[2].get_submodule(member).weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"layer 2\b"):
        collect(model, tokens(2, 5), [1, 2], {wanted})


# Half precision.


def ranks(values):
    return torch.argsort(torch.argsort(values)).double()


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", [Element(0), Second(), Element(1)], ids=repr)
def test_half_precision_ranks_as_float32_does(dtype, wanted):
    shape = {"layers": 3, "channels": 120, "hidden": 32, "groups": 2}
    wide, narrow = tiny(**shape), tiny(**shape, dtype=dtype)
    ids = tokens(8, 16)
    expected, found = collect(wide, ids, [0, 1], {wanted}), collect(narrow, ids, [0, 1], {wanted})
    for index, members in expected.items():
        for name, values in members.items():
            half = found[index][name][wanted]
            assert half.dtype == torch.float32
            assert correlation(half, values[wanted]) > 0.97
            assert close(half, values[wanted], 0.2)
