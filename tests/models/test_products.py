"""Products of narrow matrices in float32: the numbers are those of the exact product, rounded once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.checkpoint import checkpoint

from reproducer import prune
from reproducer.models import products
from reproducer.models.products import WideProducts, wide_products
from reproducer.pruning import collect
from tests.helpers import examples, randn, tiny, tokens

CPU = torch.device("cpu")
NARROW = pytest.mark.parametrize("dtype", products.NARROW)
linear, attention = nn.functional.linear, nn.functional.scaled_dot_product_attention


def assert_rounded(value, exact, magnitude, twice=None):
    """`value` is `exact` but for one rounding to its dtype, and those of a float32 sum of terms up to `magnitude`.

    `twice`: a part of it that may have been rounded before.
    """
    ulp, wide_ulp = torch.finfo(value.dtype).eps, torch.finfo(torch.float32).eps
    tiny = torch.finfo(value.dtype).tiny
    allowed = ulp / 2 * exact.abs() + 100 * wide_ulp * magnitude + tiny
    if twice is not None:
        allowed += ulp * twice.abs()
    assert ((value.double() - exact).abs() <= allowed).all()


@NARROW
@examples(25)
@given(data=st.data())
def test_a_linear_layer_and_its_gradients_are_rounded_once(dtype, data):
    batch = data.draw(st.lists(st.integers(1, 4), max_size=2))
    rows, columns, biased = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)), data.draw(st.booleans())
    given = [randn(*batch, columns, dtype=dtype), randn(rows, columns, dtype=dtype, seed=1)]
    given += [randn(rows, dtype=dtype, seed=2)] if biased else []
    upstream = randn(*batch, rows, dtype=dtype, seed=3)
    ours, exact, sizes = (
        [one.detach().requires_grad_() for one in found]
        for found in (given, [one.double() for one in given], [one.double().abs() for one in given])
    )
    with WideProducts():
        made = linear(*ours)
        gradients = torch.autograd.grad(made, ours, upstream)
    assert made.dtype == dtype
    product = linear(*exact[:2])  # torch may round it before it adds the bias
    assert_rounded(made, linear(*exact), linear(*sizes), twice=product if biased else None)
    true = torch.autograd.grad(linear(*exact), exact, upstream.double())
    size = torch.autograd.grad(linear(*sizes), sizes, upstream.double().abs())
    for own, one, of_one in zip(gradients, true, size, strict=True):
        assert own.dtype == dtype
        assert_rounded(own, one, of_one)


@NARROW
@pytest.mark.parametrize(
    "product",
    [torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.bmm, lambda a, b: a @ b],
    ids=["torch.matmul", "torch.bmm", "matmul", "bmm", "@"],
)
def test_products_are_rounded_once(dtype, product):
    a, b = randn(3, 5, 64, dtype=dtype), randn(3, 64, 7, dtype=dtype, seed=1)
    with WideProducts():
        made = product(a, b)
    assert made.dtype == dtype
    assert_rounded(made, a.double() @ b.double(), a.double().abs() @ b.double().abs())


@NARROW
def test_attention_with_a_mask_is_rounded_once(dtype):
    query, key, value = (randn(2, 3, 9, 8, dtype=dtype, seed=seed) for seed in range(3))
    for mask in (torch.ones(9, 9).tril().bool(), randn(9, 9, dtype=dtype, seed=3)):
        wide = mask if mask.dtype == torch.bool else mask.double()
        exact = attention(query.double(), key.double(), value.double(), attn_mask=wide)
        with WideProducts():
            made = attention(query, key, value, attn_mask=mask)
        assert made.dtype == dtype
        assert_rounded(made, exact, value.double().abs().amax())


def test_they_are_formed_so_in_hooks_and_recomputation_of_a_backward_pass():
    weight, seen = randn(6, 6, dtype=torch.bfloat16), []

    def block(given):
        seen.append(isinstance(_get_current_dispatch_mode(), WideProducts))
        return linear(given, weight).tanh()

    for backward in (lambda loss, leaf: loss.backward(), lambda loss, leaf: torch.autograd.grad(loss, leaf)):
        leaf = randn(3, 6, dtype=torch.bfloat16).requires_grad_()
        with WideProducts():
            loss = checkpoint(block, leaf, use_reentrant=False)
            loss.register_hook(lambda gradient: seen.append(isinstance(_get_current_dispatch_mode(), WideProducts)))
            backward(loss.sum(), leaf)
    assert seen == [True] * 6  # forward, hook, recomputation


def test_other_calls_are_left_alone(monkeypatch):
    """Products of wide or of mixed factors, and everything that is no product."""

    def refuse(*arguments):
        raise AssertionError("widened")

    monkeypatch.setattr(products, "_wide", refuse)
    narrow, wide = randn(4, 4, dtype=torch.bfloat16), randn(4, 4, dtype=torch.float32)
    with WideProducts():
        assert torch.equal(wide @ wide, torch.mm(wide, wide))
        assert (narrow + narrow).dtype == torch.bfloat16
        for mixed in (lambda: narrow @ wide, lambda: torch.addmm(narrow, narrow, wide)):
            with pytest.raises(RuntimeError, match="dtype"):
                mixed()
        with pytest.raises(AssertionError, match="widened"):
            narrow @ narrow


def test_only_where_a_processor_is_slow_at_them(monkeypatch):
    monkeypatch.setattr(products, "has_fast_products", lambda dtype: dtype == torch.float16)
    assert isinstance(wide_products(torch.bfloat16, CPU), WideProducts)
    for dtype, device in ((torch.float16, "cpu"), (torch.float32, "cpu"), (torch.bfloat16, "cuda")):
        assert not isinstance(wide_products(dtype, torch.device(device)), WideProducts)


@pytest.mark.parametrize("slow", [True, False])
def test_pruning_uses_them_where_they_are_needed(monkeypatch, slow):
    """Also for the gradients of single samples, which a hook forms in the backward pass."""
    seen = []
    monkeypatch.setattr(products, "has_fast_products", lambda dtype: not slow)
    reduce = collect.reduce_gradients
    monkeypatch.setattr(
        collect,
        "reduce_gradients",
        lambda *given: seen.append(isinstance(_get_current_dispatch_mode(), WideProducts)) or reduce(*given),
    )
    prune(tiny(dtype=torch.bfloat16), "llm-pruner-e2", tokens(2, 8), ratio=0.2, layers=[1])
    assert set(seen) == {slow}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_too(mode):
    given, weight = randn(2, 3, 8, dtype=torch.bfloat16), randn(5, 8, dtype=torch.bfloat16, seed=1)
    with WideProducts(), mode():
        made = linear(given, weight)
        also = given @ weight.T
    assert_rounded(made, *(linear(of(given.double()), of(weight.double())) for of in (id_, abs)))
    assert_rounded(also, *(of(given.double()) @ of(weight.double()).T for of in (id_, abs)))


def id_(value):
    return value
