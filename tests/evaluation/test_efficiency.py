"""Timed passes: how many, of what, and the memory they take."""

import pytest
import torch

from reproducer.errors import UserError
from reproducer.evaluation import efficiency
from reproducer.evaluation.efficiency import measure_passes, measure_speed
from tests.helpers import cut_by_hand, tiny


def weight_bytes(model):
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


@pytest.fixture
def squares(monkeypatch):
    """A clock that shows 0, 1, 4, 9, …: the seconds between two readings tell which they were."""
    clock = iter(range(100))
    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: float(next(clock)) ** 2)


def test_warm_up_is_run_and_not_timed(squares):
    model, progress, passes = tiny(), [], []
    model.register_forward_pre_hook(lambda *_, **options: passes.append(None))
    seconds, _ = measure_passes(model, 5, batch=2, repeats=3, warmup=2, progress=lambda *done: progress.append(done))
    assert len(passes) == 1 + 2 + 3  # one for the memory
    assert seconds == [9.0, 13.0, 17.0]  # (2n + 1)² − (2n)² of the third pass and on
    assert progress[-1] == (5, 5)


def test_a_prompt_and_its_continuation_are_timed_apart(squares):
    model, progress, passes = tiny(), [], []

    def note(module, arguments, options):
        cache = options.get("past_key_values")
        passes.append((tuple(options["input_ids"].shape), cache.get_seq_length() if cache is not None else 0))

    model.register_forward_pre_hook(note, with_kwargs=True)
    speed = measure_speed(model, 5, 3, batch=2, repeats=2, warmup=1, progress=lambda *done: progress.append(done))
    assert passes == [((2, 5), 0), ((2, 1), 5), ((2, 1), 6), ((2, 1), 7)] * 3
    assert speed == ([7.0, 13.0], [9.0, 15.0])  # the clock is read three times a prompt
    assert progress[-1] == (3, 3)


@pytest.mark.parametrize(
    "measure", [measure_passes, lambda model, length, **more: measure_speed(model, length, 2, **more)]
)
def test_the_model_is_left_as_it_was(measure):
    model = tiny().train()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    state = torch.get_rng_state()
    measure(model, 4, repeats=1, warmup=0)
    assert model.training and all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_is_the_weights_and_what_a_pass_makes():
    model = tiny(vocab=997, tied=True)
    short, long = (measure_passes(model, length=n, repeats=1, warmup=0)[1] for n in (16, 32))
    assert long - weight_bytes(model) == pytest.approx(2 * (short - weight_bytes(model)), rel=0.05)
    logits = 32 * 997 * 4
    assert logits <= long - weight_bytes(model) < 2 * logits
    smaller = cut_by_hand(model, {1: {"heads": [0, 2], "channels": range(12)}})
    saved = weight_bytes(model) - weight_bytes(smaller)
    assert measure_passes(smaller, length=32, repeats=1, warmup=0)[1] <= long - saved


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(UserError, match=r"efficiency\.length is 65 tokens, longer than the model's context of 64"):
        measure_passes(tiny(), length=65)
    with pytest.raises(UserError, match="65 tokens, longer than the model's context of 64"):
        measure_speed(tiny(), 60, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    model = tiny(vocab=997).to("cuda")
    seconds, peak = measure_passes(model, length=32, repeats=3, warmup=1)
    assert peak > weight_bytes(model) + 32 * 997 * 4
    assert min(seconds) > 0
