"""Statistics of inputs and of weights: what they are, in how many passes they come, and new ones of a user's own."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reproducer.errors import UserError
from reproducer.models.architecture import architecture_of
from reproducer.pruning import collect as passes
from reproducer.pruning.collect import Limits, collect
from reproducer.pruning.scoring import structure_scores
from reproducer.pruning.statistics import (
    Element,
    First,
    InputMean,
    InputNorm,
    InputVariance,
    Power,
    Second,
)
from tests.families import SIX, Double, family_model, layers_of, zeroed
from tests.helpers import examples, randn, tiny, tokens

INPUTS = {InputMean(), InputNorm(), InputVariance()}


def reference(inputs):
    """Statistics of inputs [tokens, features], as their definitions read."""
    return {
        InputMean(): inputs.mean(0),
        InputNorm(): inputs.square().sum(0).sqrt(),
        InputVariance(): (inputs - inputs.mean(0)).square().mean(0),
    }


def recorded(model, ids):
    """{(layer, module): inputs [tokens, features]} of the output and down projections, as the whole model runs."""
    found, hooks = {}, []
    for index, layer in enumerate(layers_of(model)):
        for path, axis in architecture_of(model).modules().items():
            if axis == 1:

                def hook(_, arguments, key=(index, path)):
                    found[key] = arguments[0].detach().reshape(-1, arguments[0].shape[-1])

                hooks.append(layer.get_submodule(path).register_forward_pre_hook(hook))
    with torch.no_grad():
        model(ids, use_cache=False)
    for handle in hooks:
        handle.remove()
    return found


@pytest.mark.parametrize("kind", SIX)
@pytest.mark.parametrize("wanted", [INPUTS, INPUTS | {Second(), Power(1)}], ids=["forward", "backward too"])
@pytest.mark.parametrize("tokens_at_once", [8, 2048])
def test_all_tokens_count_once(kind, wanted, tokens_at_once, monkeypatch):
    """In portions or not, beside gradients for which layers are computed again or not."""
    monkeypatch.setattr(passes, "BATCH_TOKENS", tokens_at_once)
    model, ids = family_model(kind).double(), tokens(5, 7)
    with Double():
        found = collect(model, ids, [0, 2], wanted, Limits(activations=0 if tokens_at_once == 8 else 2**29))
        inputs = recorded(model, ids)
    for (index, path), expected in inputs.items():
        if index == 1:
            continue
        for statistic, values in reference(expected).items():
            torch.testing.assert_close(found[index][path][statistic], values, rtol=1e-9, atol=1e-12)
    for members in found.values():
        for path, axis in architecture_of(model).modules().items():
            assert members[path].keys() == (wanted if axis == 1 else wanted - INPUTS)


def test_the_mean_of_each_sample():
    model, ids = tiny(dtype=torch.float64), tokens(3, 6)
    apart = collect(model, ids, [1], {InputMean(), First()}, per_sample=True)
    alone = [collect(model, sample[None], [1], {InputMean()}) for sample in ids]
    for path in ("self_attn.o_proj", "mlp.down_proj"):
        expected = torch.stack([of[1][path][InputMean()] for of in alone])
        torch.testing.assert_close(apart[1][path][InputMean()], expected, rtol=1e-6, atol=1e-9)
        assert apart[1][path][First()].shape == expected.shape


@examples(60)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 4)),
    offset=st.sampled_from([0.0, 1.0, -300.0, 3e4]),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_inputs_in_portions(size, offset, seed, data):
    """Off by rounding alone: each sum by a roundoff a term, however large the mean is beside the deviations."""
    inputs = randn(*size, seed=seed) + offset
    cuts = sorted(data.draw(st.sets(st.integers(1, len(inputs)))) | {0, len(inputs)})
    portions = [inputs[start:end] for start, end in itertools.pairwise(cuts)]
    wide, roundoff = inputs.double(), (len(inputs) + 8) * 2.0**-24
    expected = reference(wide)
    of_mean = roundoff * wide.abs().mean(0)
    allowed = {
        InputMean(): of_mean,
        InputNorm(): roundoff * expected[InputNorm()],
        # Deviations are rounded to their own size, and portions are merged by means that are themselves rounded.
        InputVariance(): roundoff * expected[InputVariance()]
        + 2 * of_mean * expected[InputVariance()].sqrt()
        + of_mean.square(),
    }
    for statistic, values in expected.items():
        states = [tuple(part.double() for part in statistic.reduce(portion)) for portion in portions]
        while len(states) > 1:  # in any order
            other = states.pop(data.draw(st.integers(1, len(states) - 1)))
            states[0] = statistic.merge(states[0], other)
        assert ((statistic.finish(states[0]) - values).abs() <= allowed[statistic]).all(), statistic


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_are_summed_in_float32(dtype):
    model, ids = tiny(dtype=dtype), tokens(8, 32)
    found, inputs = collect(model, ids, [0, 1, 2], INPUTS), recorded(model, ids)
    for (index, path), values in inputs.items():
        for statistic, expected in reference(values.double()).items():
            assert found[index][path][statistic].dtype == torch.float32
            size = values.double().abs().mean(0)
            # The layers run on other batches than the whole model: an input may be rounded to the next number.
            step = 8 * torch.finfo(dtype).eps * size * (size if statistic == InputVariance() else 1)
            step = step * len(values) ** 0.5 if statistic == InputNorm() else step
            assert ((found[index][path][statistic].double() - expected).abs() <= step + 0.02 * expected.abs()).all()


# In how many passes.


def test_the_sample_of_a_later_portion_is_named(monkeypatch):
    monkeypatch.setattr(passes, "BATCH_TOKENS", 10)
    model, ids = tiny(), tokens(7, 5, vocab=60)
    model.model.embed_tokens.weight.data[60] = float("nan")
    ids[5, 2] = 60
    with pytest.raises(UserError, match=r"sample 5 "):
        collect(model, ids, [1], INPUTS)


# Statistics of a user's own.


# Fused weights.


@pytest.mark.parametrize("kind", SIX)
def test_scores_of_structures_of_every_layout(kind):
    """A structure's score is the sum over exactly the weights that it owns, wherever a family stores them."""
    model, ids = family_model(kind).double(), tokens(3, 6)
    with Double():
        found = collect(model, ids, [1], {Element(0)})
        gradients = mean_gradients(model, ids)
    architecture, generator = architecture_of(model), torch.Generator()
    scores = structure_scores(model, architecture, found, lambda vectors, _: vectors[Element(0)], generator)
    for structure, values in scores[1].items():
        for unit, value in enumerate(values):
            others = [other for other in range(len(values)) if other != unit]
            without = dict(layers_of(zeroed(model, {1: {structure: others}}))[1].named_parameters())
            expected = sum(
                float((parameter.detach() * gradients[name]).abs()[without[name] != parameter].sum())
                for name, parameter in layers_of(model)[1].named_parameters()
                if parameter.dim() == 2
            )
            assert float(value) == pytest.approx(expected, rel=1e-9)


def mean_gradients(model, ids):
    """Gradients of the mean loss with respect to the parameters of layer 1."""
    model.requires_grad_()
    logits = model(ids, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    names, parameters = zip(*layers_of(model)[1].named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))
