"""Every method's scores against a computation from weight-sized autograd gradients, written down as METHODS are."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reproducer import prune
from tests.families import Double
from tests.helpers import (
    MEMBERS,
    examples,
    expected_scores,
    orders,
    sample_gradients,
    shapes,
    tiny,
    tokens,
)

E1, E2, VECTOR, MIX = "llm-pruner-e1", "llm-pruner-e2", "vector", "llm-pruner-mix"


def taylor(weight, gradients, kind):
    s1, s2 = orders(weight, gradients)
    return {
        E1: s1.abs().sum(1),
        E2: s2.sum(1),
        VECTOR: s1.sum(1).abs(),
        MIX: (s1 - s2 / 2).abs().sum(1),
    }[kind]


def unified(weight, gradients, alpha1, alpha2, a, b, c, f):
    """AdaPruner's metric as its definition reads; "only" leaves the first order out."""
    s1, s2 = orders(weight, gradients)
    return _unified(s1, s2, alpha1, alpha2, a, b, c, f)


def unified_size(weight, gradients, alpha1, alpha2, a, b, c, f):
    """The sum of the sizes of its terms."""
    _, s2 = orders(weight, gradients)
    return _unified((weight * gradients).abs().mean(0), -s2, alpha1, alpha2, a, b, c, f)


def _unified(s1, s2, alpha1, alpha2, a, b, c, f):

    def expansion(factor):
        return -s2 / 2 if factor == "only" else s1 - factor * s2 / 2

    return alpha1 * c * expansion(a).sum(1).abs() + alpha2 * f * expansion(b).abs().sum(1)


def assert_scores(plan, expected, tolerance, sizes=None):
    """Within `tolerance` of the sizes of the terms that cancel in a score, where these are not the score itself."""
    assert plan.scores.keys() == expected.keys()
    for index, kinds in expected.items():
        for kind, values in kinds.items():
            found, size = plan.scores[index][kind], (sizes or expected)[index][kind].abs()
            floor = tolerance * 1e-3 * float(size.max())
            assert found.shape == values.shape
            assert ((found - values).abs() <= tolerance * size + floor).all(), (index, kind, found, values)


@pytest.mark.parametrize("method", [E1, E2, VECTOR, MIX])
def test_taylor_scores(zoo_model, method):
    exact, ids = copy.deepcopy(zoo_model).double(), tokens(4, 10)
    with Double():
        plan = prune(exact, method, ids, structure_ratio=0.25, layers=[0, 2])
        gradients = sample_gradients(exact, ids, [0, 2])
    expected = expected_scores(exact, gradients, lambda w, g: taylor(w, g, method))
    sizes = expected_scores(exact, gradients, lambda w, g: (w * g).abs().mean(0).sum(1)) if method == VECTOR else None
    assert_scores(plan, expected, 1e-10, sizes)


WEIGHTS = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: sum(pair) > 1e-3)
FACTORS = st.one_of(st.just(0), st.just("only"), st.sampled_from([1, 1e5, 1e6, 1e7]), st.floats(0.1, 1e7))
SCALES = st.sampled_from([1.0, 1e-2, 1e-3, 1e-4])


@examples(30)
@given(shape=shapes(), weights=WEIGHTS, a=FACTORS, b=FACTORS, c=SCALES, f=SCALES, samples=st.integers(1, 4))
def test_adapruners_metric(shape, weights, a, b, c, f, samples):
    """In float64: the condition of a narrow random model stays far below the 10⁸ between roundoff and tolerance."""
    model, ids = tiny(**shape).double(), tokens(samples, 7)
    with Double():
        plan = prune(
            model,
            "adapruner",
            ids,
            structure_ratio=0.25,
            layers=[0],
            alpha1=weights[0],
            alpha2=weights[1],
            coarse_second=a,
            fine_second=b,
            coarse_scale=c,
            fine_scale=f,
        )
        gradients = sample_gradients(model, ids, [0])
    expected, sizes = (
        expected_scores(model, gradients, lambda w, g, of=of: of(w, g, *weights, a, b, c, f))
        for of in (unified, unified_size)
    )
    assert_scores(plan, expected, 1e-8, sizes)


@pytest.mark.parametrize(
    ("parameters", "method", "scale"),
    [
        ({"alpha1": 1, "alpha2": 0, "coarse_second": 0, "coarse_scale": 1}, VECTOR, 1),
        ({"alpha1": 0, "alpha2": 1, "fine_second": 0, "fine_scale": 1}, E1, 1),
        ({"alpha1": 0, "alpha2": 1, "fine_second": "only", "fine_scale": 1}, E2, 0.5),
        ({"alpha1": 1, "alpha2": 0, "coarse_second": "only", "coarse_scale": 1}, E2, 0.5),
        ({"alpha1": 0, "alpha2": 1, "fine_second": 1, "fine_scale": 1}, MIX, 1),
        ({"alpha1": 0.3, "alpha2": 0, "coarse_second": 0, "coarse_scale": 1e-2}, VECTOR, 3e-3),
    ],
    ids=str,
)
def test_adapruners_space_holds_the_baselines(parameters, method, scale):
    """To the bit where the factor is a power of two: the same units are kept."""
    model, ids = tiny(layers=4, groups=2), tokens(4, 9)
    ours = prune(model, "adapruner", ids, structure_ratio=0.4, layers=[1, 2, 3], **parameters)
    baseline = prune(model, method, ids, structure_ratio=0.4, layers=[1, 2, 3])
    assert (ours.kept_heads, ours.kept_channels) == (baseline.kept_heads, baseline.kept_channels)
    for index, kinds in baseline.scores.items():
        for kind, values in kinds.items():
            torch.testing.assert_close(ours.scores[index][kind], scale * values, rtol=1e-5, atol=0)


@pytest.mark.parametrize("p", [2, 0.5])
def test_magnitude(zoo_model, p):
    plan = prune(zoo_model, "magnitude", structure_ratio=0.25, layers=[1, 2], p=p)
    names = [name for of_kind in MEMBERS.values() for name in of_kind]
    no_gradients = {index: {name: torch.empty(0) for name in names} for index in (1, 2)}  # not looked at
    expected = expected_scores(zoo_model, no_gradients, lambda w, _: w.abs().pow(p).sum(1))
    assert_scores(plan, expected, 1e-5)


def test_random_follows_its_seed_alone():
    model, other = tiny(seed=0, layers=4), tiny(seed=1, layers=4)
    settings = {"structure_ratio": 0.5, "layers": [0, 1, 2, 3]}
    first = prune(model, "random", seed=3, **settings)
    torch.manual_seed(1234)
    assert first == prune(model, "random", seed=3, **settings)
    assert first.kept_channels == prune(other, "random", seed=3, **settings).kept_channels
    assert first.kept_channels != prune(model, "random", seed=4, **settings).kept_channels
    assert len({tuple(units) for units in first.kept_channels.values()}) == 4  # no layer repeats another
