"""Next-token losses and their gradient against torch's cross-entropy on all logits at once."""

import math
from unittest import mock

import numpy as np
import peft
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reproducer.models import loss
from reproducer.models.loss import next_token_losses, token_losses
from tests.families import ZOO, family_model
from tests.helpers import examples


def problem(batch, length, width, vocab, bias, dtype=torch.float64, seed=0):
    """Hidden states, a head and labels; numpy draws the same on every processor."""
    generator = np.random.default_rng(seed)
    head = nn.Linear(width, vocab, bias=bias, dtype=dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.from_numpy(generator.standard_normal(parameter.shape)))
    hidden = torch.from_numpy(generator.standard_normal((batch, length, width))).to(dtype)
    return hidden, head, torch.from_numpy(generator.integers(vocab, size=(batch, length)))


def blocks_of(rows, columns):
    """Inside, logits exist in blocks of this size, and groups of them in a cache that holds two rows of one."""
    return mock.patch.multiple(loss, CPU_BLOCK=(rows, columns), CACHE_BYTES=2 * columns * 8)


def plain(hidden, head, labels, divisor=1.0, cap=None):
    logits = head(hidden)[:, :-1].flatten(0, 1) / divisor
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return F.cross_entropy(logits, labels[:, 1:].flatten(), reduction="none").view(len(labels), -1)


@examples(30)
@given(
    batch=st.integers(1, 4),
    length=st.integers(2, 9),
    width=st.integers(1, 7),
    vocab=st.integers(2, 30),
    bias=st.booleans(),
    block=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    ignored=st.floats(0, 1),
    divisor=st.sampled_from([1.0, 0.3, 13.0]),
    cap=st.sampled_from([None, 0.5, 3.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_equal_cross_entropy(
    batch, length, width, vocab, bias, block, ignored, divisor, cap, seed
):
    hidden, head, labels = problem(batch, length, width, vocab, bias, seed=seed)
    generator = np.random.default_rng(seed + 1)
    labels[torch.from_numpy(generator.random(labels.shape)) < ignored] = -100
    upstream = torch.from_numpy(generator.standard_normal((batch, length - 1)))
    results = []
    for losses_of in (token_losses, plain):
        leaf = hidden.clone().requires_grad_()
        with blocks_of(*block):
            losses = losses_of(leaf, head, labels, divisor, cap)
        results.append((losses.detach(), torch.autograd.grad((losses * upstream).sum(), leaf)[0]))
    (ours, our_gradient), (expected, expected_gradient) = results
    with blocks_of(*block), torch.no_grad():
        assert torch.equal(token_losses(hidden, head, labels, divisor, cap), ours)
    assert ours.shape == (batch, length - 1)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(our_gradient, expected_gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("divisor", "cap"), [(1.0, None), (2.5, 2.0)])
def test_no_tensor_holds_all_logits(divisor, cap):
    """Blocks of 7 tokens and 97 words: nothing but the inputs, the head and what has the width of a state is larger."""
    hidden, head, labels = problem(4, 20, 3, 977, bias=True)
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            outputs = result if isinstance(result, tuple | list) else [result]
            seen.extend(o.numel() for o in outputs if isinstance(o, torch.Tensor) and 3 not in o.shape)
            return result

    with Watch(), blocks_of(7, 97):
        token_losses(hidden.requires_grad_(), head, labels, divisor, cap).sum().backward()
    assert max(number for number in seen if number not in (labels.numel(), 977)) == 7 * 97


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_of_a_likely_target_keeps_its_precision(dtype):
    """With a probability of 0.999 for the target, the others' words must not be lost beside it."""
    width, vocab = 16, 40
    hidden, head, labels = problem(3, 30, width, vocab, bias=True, dtype=dtype)
    labels[:, 1:] = 0
    with torch.no_grad():
        head.weight[0] = 0  # the target's logit is its bias, 10 above all others
        head.bias[0] = head(hidden).float().max() + 10
    gradients = []
    for losses_of, dtypes in ((token_losses, dtype), (plain, torch.float64)):
        leaf = hidden.to(dtypes, copy=True).requires_grad_()
        losses = losses_of(leaf, head.to(dtypes), labels)
        assert losses.max() < 0.01
        gradients.append(torch.autograd.grad(losses.sum(), leaf)[0].double())
    ours, exact = gradients
    with torch.no_grad():
        logits = head(hidden.double())[:, :-1]
    # The probability of all other words, as a sum of small numbers: what 1 minus the target's leaves can round to 0.
    others = (logits[..., 1:] - logits[..., :1]).exp().sum(-1)
    # Each word's probability is off by the rounding of its logit, which may be as large as the bias, and by its own;
    # what is smaller than the smallest number of the dtype is lost.
    off = torch.finfo(dtype).eps * (head.bias[0].abs() + 4) * others[..., None]
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    allowed = (off + vocab * smallest) * head.weight.abs().amax()
    assert ((ours - exact)[:, :-1].abs() <= allowed).all()


def test_words_that_are_ruled_out_have_no_part_in_the_loss():
    results = []
    for losses_of in (token_losses, plain):
        hidden, head, labels = problem(2, 6, 3, 12, bias=True)
        labels.clamp_(min=9)
        with torch.no_grad():
            head.bias[[0, 1, 2, 4, 5, 6]] = -torch.inf
        leaf = hidden.requires_grad_()
        with blocks_of(4, 4):
            losses = losses_of(leaf, head, labels)
        results += [losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]]
    for ours, expected in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize("is_target", [True, False])
def test_logits_that_are_not_finite_are_not_hidden(bad, is_target):
    hidden, head, labels = problem(1, 4, 3, 12, bias=True)
    labels.fill_(5 if is_target else 6)
    with torch.no_grad():
        head.bias[5] = bad
    losses = token_losses(hidden.requires_grad_(), head, labels)
    assert not torch.isfinite(losses).any()
    (gradient,) = torch.autograd.grad(losses.sum(), hidden)
    assert gradient[:, :-1].isnan().all()


def test_unlikely_targets_keep_their_precision():
    """Losses of 25, to which exp(-25) still adds in float64."""
    hidden, head, labels = problem(2, 6, 3, 2, bias=True)
    labels.zero_()
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 25.0]))
    expected = torch.full((2, 5), 25 + math.log1p(math.exp(-25)), dtype=torch.float64)
    torch.testing.assert_close(token_losses(hidden, head, labels), expected, rtol=4e-16, atol=0)


def test_the_losses_of_a_model_with_an_adapter():
    """Recovery trains such a model, which surgery would refuse."""
    model = family_model("granite", **ZOO["granite"])
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])).get_base_model()
    ids = torch.arange(20).view(2, 10)
    with torch.no_grad():
        hidden = adapted.model(input_ids=ids, use_cache=False).last_hidden_state
        losses = next_token_losses(adapted, hidden, ids)
        expected = adapted(ids, labels=ids).loss
    torch.testing.assert_close(losses.mean().float(), expected, rtol=1e-6, atol=0)  # transformers' loss is in float32
