"""Next-token losses and their gradient against torch's cross-entropy on all logits at once."""

import peft
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reproducer.models.loss import next_token_losses, token_losses
from tests.families import ZOO, family_model
from tests.helpers import examples


def problem(batch, length, width, vocab, bias, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(width, vocab, bias=bias, dtype=dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(batch, length, width, generator=generator, dtype=torch.float64).to(dtype)
    return hidden, head, torch.randint(vocab, (batch, length), generator=generator)


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
    chunk=st.one_of(st.none(), st.integers(1, 40)),
    ignored=st.floats(0, 1),
    divisor=st.sampled_from([1.0, 0.3, 13.0]),
    cap=st.sampled_from([None, 0.5, 3.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_equal_cross_entropy(
    batch, length, width, vocab, bias, chunk, ignored, divisor, cap, seed
):
    hidden, head, labels = problem(batch, length, width, vocab, bias, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = -100
    upstream = torch.randn(batch, length - 1, generator=generator, dtype=torch.float64)
    results = []
    for losses_of, arguments in ((token_losses, (chunk, divisor, cap)), (plain, (divisor, cap))):
        leaf = hidden.clone().requires_grad_()
        losses = losses_of(leaf, head, labels, *arguments)
        results.append((losses.detach(), torch.autograd.grad((losses * upstream).sum(), leaf)[0]))
    (ours, our_gradient), (expected, expected_gradient) = results
    assert ours.shape == (batch, length - 1)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(our_gradient, expected_gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("divisor", "cap"), [(1.0, None), (2.5, None), (1.0, 2.0), (0.4, 3.0)])
def test_numerical_gradient(divisor, cap):
    hidden, head, labels = problem(2, 4, 3, 7, bias=True)
    labels[0, 2] = -100
    leaf = hidden.requires_grad_()
    assert torch.autograd.gradcheck(lambda h: token_losses(h, head, labels, 2, divisor, cap), (leaf,))


def test_ignored_positions_are_zero_and_cost_nothing():
    hidden, head, labels = problem(2, 5, 3, 7, bias=False)
    labels[1, 3] = -100
    leaf = hidden.requires_grad_()
    losses = token_losses(leaf, head, labels)
    assert losses[1, 2] == 0 and (losses != 0).sum() == losses.numel() - 1
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    assert gradient[1, 2].eq(0).all() and gradient[:, -1].eq(0).all() and gradient[1, 1].ne(0).any()


def test_the_head_gets_no_gradient():
    hidden, head, labels = problem(1, 4, 3, 7, bias=True)
    token_losses(hidden.requires_grad_(), head, labels).sum().backward()
    assert head.weight.grad is None and head.bias.grad is None and hidden.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_losses_are_accumulated_in_float32(dtype):
    hidden, head, labels = problem(3, 30, 16, 50, bias=False, dtype=dtype)
    leaf = hidden.requires_grad_()
    losses = token_losses(leaf, head, labels)
    assert losses.dtype == torch.float32
    wide = plain(hidden.detach().float(), head.float(), labels)
    torch.testing.assert_close(losses.detach(), wide.detach(), rtol=0.05, atol=0.05)
    losses.sum().backward()
    assert leaf.grad.dtype == dtype


@pytest.mark.parametrize(("divisor", "cap"), [(1.0, None), (2.5, 2.0)])
def test_no_tensor_holds_all_logits(divisor, cap):
    """A chunk of three rows: nothing with a vocabulary's width may have more of them."""
    hidden, head, labels = problem(4, 20, 3, 977, bias=True)
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            outputs = result if isinstance(result, tuple | list) else [result]
            seen.extend(o.numel() for o in outputs if isinstance(o, torch.Tensor) and 977 in o.shape[1:])
            return result

    with Watch():
        token_losses(hidden.requires_grad_(), head, labels, 3, divisor, cap).sum().backward()
    assert seen and max(seen) == 3 * 977


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
