"""Measured passes: how many, of what, and the memory they take."""

import pytest
import torch

from reproducer.errors import UserError
from reproducer.evaluation import efficiency
from reproducer.evaluation.efficiency import Efficiency, measure
from reproducer.evaluation.operations import Allocations
from tests.families import family_model
from tests.helpers import cut_by_hand, tiny


def weight_bytes(model):
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def test_warm_up_is_run_and_not_timed(monkeypatch):
    model, clock, seen = tiny(), iter(range(100)), []
    model.register_forward_pre_hook(lambda *_, **given: seen.append(None))
    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: float(next(clock)) ** 2)
    progress = []
    found = measure(model, length=5, batch=2, repeats=3, warmup=2, progress=lambda *done: progress.append(done))
    assert len(seen) == 1 + 2 + 3  # one for the memory
    assert found.seconds == [9.0, 13.0, 17.0]  # (2n + 1)² − (2n)² of the third pass and on
    assert found.latency == 13 and found.quartiles == (11, 15)
    assert found.tokens == 10 and found.tokens_per_second == 10 / 13
    assert progress[-1] == (5, 5)


def test_the_model_is_left_as_it_was():
    model = tiny().train()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    state = torch.get_rng_state()
    measure(model, length=4, repeats=1, warmup=0)
    assert model.training and all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_is_the_weights_and_what_a_pass_makes():
    model = tiny(vocab=997, tied=True)
    short, long = (measure(model, length=n, repeats=1, warmup=0).peak_memory_bytes for n in (16, 32))
    assert long - weight_bytes(model) == pytest.approx(2 * (short - weight_bytes(model)), rel=0.05)
    logits = 32 * 997 * 4
    assert logits <= long - weight_bytes(model) < 2 * logits
    smaller = cut_by_hand(model, {1: {"heads": [0, 2], "channels": range(12)}})
    saved = weight_bytes(model) - weight_bytes(smaller)
    assert measure(smaller, length=32, repeats=1, warmup=0).peak_memory_bytes <= long - saved


def test_allocations_that_are_freed_make_room():
    with Allocations() as made:
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second.view(10, 100).t()
        del second
        fourth = third * 2
        assert fourth is not None
    assert made.peak == 2 * 4000


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox", "opt"])
def test_other_families(family):
    model = family_model(family, dtype=torch.float32)
    assert measure(model, length=8, repeats=1, warmup=0).peak_memory_bytes > weight_bytes(model)


def test_one_pass_has_no_spread():
    assert Efficiency([2.0], 0, 64).quartiles == (2.0, 2.0)


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(UserError, match=r"efficiency\.length is 65 tokens, longer than the model's context of 64"):
        measure(tiny(), length=65)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    model = tiny(vocab=997).to("cuda")
    found = measure(model, length=32, repeats=3, warmup=1)
    assert found.peak_memory_bytes > weight_bytes(model) + 32 * 997 * 4
    assert all(seconds > 0 for seconds in found.seconds)
